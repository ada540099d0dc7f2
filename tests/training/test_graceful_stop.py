"""A run stopped at any step by a signal and resumed is bitwise equal to one that was never stopped."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from diffusion_lab.checkpoint import find_checkpoint
from diffusion_lab.runs.folder import RunStopped
from diffusion_lab.training.callbacks import EMACallback, SampleImages
from diffusion_lab.training.module import DiffusionModule
from tests.sameness import assert_equal
from tests.training.tiny import saved, tiny_run

AUTO = {"training.resume": {"enabled": True, "checkpoint": "auto", "reset_optimizer": False, "reset_scheduler": False}}
# Two epochs of three batches; with accumulation of two, each epoch has a whole step and one of the batch left over.
BASE: dict[str, Any] = {
    "data.loading.batch_size": 7,
    "training.ema.decay": 0.9,
    "training.ema.further_decays": [0.5],
    "training.scheduler": {"type": "warmup_cosine", "warmup_steps": 2, "eta_min": 1e-4},
    "training.visualization": {"enabled": True, "interval": 1, "num_samples": 3, "guidance_scale": 2.0},
    **AUTO,
}
PLATEAU = {"type": "plateau", "mode": "max", "factor": 0.5, "patience": 0}
COSINE = {"type": "cosine", "T_max": "auto", "eta_min": 1e-4}
KINDS: dict[str, dict[str, Any]] = {
    "warmup": BASE,
    "plateau": {**BASE, "training.scheduler": PLATEAU},
    "cosine, bfloat16": {**BASE, "training.scheduler": COSINE, "training.performance.precision": "bf16"},
    "accumulating": {**BASE, "training.accumulate_batches": 2},
    "rarely logged": {**BASE, "training.log_interval": 2, "training.validation.frequency": 2},
    "workers": {**BASE, "data.loading.num_workers": 2},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Uninterrupted runs."""
    folder = tmp_path_factory.mktemp("whole")
    runs = {name: folder / name for name in KINDS if name != "workers"}
    for name, path in runs.items():
        tiny_run(path, KINDS[name])
    return {**runs, "workers": runs["warmup"]}  # workers make no difference


class At:
    """Sends a signal the n-th time that a hook is called."""

    def __init__(self, place: tuple[type, str], times: int, monkeypatch: pytest.MonkeyPatch) -> None:
        owner, name = place
        inner = getattr(owner, name)
        self.left = times

        def reached(*arguments: Any, **named: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGTERM)
            return inner(*arguments, **named)

        monkeypatch.setattr(owner, name, reached)


def metrics(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "logs" / "metrics.jsonl").read_text().splitlines()]
    seconds = [line.pop("seconds") for line in lines]
    assert seconds == sorted(seconds)  # they continue, too
    return lines


def assert_same(actual: Path, expected: Path) -> None:
    one, other = (saved(find_checkpoint(folder, "last")) for folder in (actual, expected))
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert_equal(one[part], other[part], part)
    assert metrics(actual) == metrics(expected)
    for picture in sorted((expected / "samples").glob("*.png")):
        assert (actual / "samples" / picture.name).read_bytes() == picture.read_bytes()
    best = [json.loads((folder / "summary.json").read_text())["best_value"] for folder in (actual, expected)]
    assert best[0] == best[1]


STEP = (DiffusionModule, "training_step")
VALIDATION = (DiffusionModule, "validation_step")
AFTER_STEP = (EMACallback, "on_train_batch_end")
PICTURE = (SampleImages, "on_train_epoch_end")
PLACES = {
    **{f"batch {number}": (STEP, number) for number in range(1, 7)},
    "after batch 2": (AFTER_STEP, 2),
    "after the last batch of the epoch": (AFTER_STEP, 3),
    "validation": (VALIDATION, 1),
    "pictures": (PICTURE, 1),
    "last pictures": (PICTURE, 2),
}
TRIED = [
    *(("warmup", place) for place in PLACES),
    *(("plateau", place) for place in ("batch 2", "batch 5", "validation")),
    *(("cosine, bfloat16", place) for place in ("batch 2", "batch 3", "batch 4")),
    *(("accumulating", place) for place in ("batch 1", "batch 2", "batch 3", "batch 4", "validation")),
    *(("rarely logged", place) for place in ("batch 1", "batch 2", "batch 4", "batch 5")),
    ("workers", "batch 2"),
    ("workers", "pictures"),
]


@pytest.mark.parametrize(("kind", "place"), TRIED)
def test_stopped_and_resumed(
    kind: str, place: str, whole: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        At(*PLACES[place], patch)
        with pytest.raises(RunStopped) as stopped:
            tiny_run(tmp_path, KINDS[kind])
    assert stopped.value.code == 143
    again = tiny_run(tmp_path, KINDS[kind])
    assert again is not None
    assert_same(tmp_path, whole[kind])
