"""Generated images to evaluate: generated once, and again only if the existing ones are damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from diffusion_lab.evaluation import evaluate_checkpoint
from diffusion_lab.evaluation.result import Result
from diffusion_lab.generation.open_folder import UNFINISHED
from diffusion_lab.generation.request import MANIFEST
from tests.evaluation.untrained import OWN_IMAGES, untrained


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return untrained(tmp_path / "run.ckpt", {"training.performance.precision": "bf16"})


def evaluated(run: Path, **changes: Any) -> Result:
    once: dict[str, Any] = {"sampler": {"type": "ddim", "steps": 1}, "num_samples": 20, "metrics": ["kid"]}
    once |= {"features": "pixels", "device": "cpu", "base_dir": run.parent / "out", "trust": [OWN_IMAGES]}
    return evaluate_checkpoint(run, **once, **changes)


def test_images_of_another_precision_have_another_folder(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run in mixed precision is sampled in the precision of the device: a GPU may differ from a CPU."""
    results = []
    for supported in (True, False, True):
        monkeypatch.setattr("diffusion_lab.runtime.precision.has_bfloat16", lambda _, supported=supported: supported)
        results.append(evaluated(run))
    assert [result.samples["precision"] for result in results] == ["bfloat16", "float32", "bfloat16"]
    assert results[0].samples["folder"] == results[2].samples["folder"] != results[1].samples["folder"]


@pytest.mark.parametrize("damage", ["lost", "others", "other note"])
def test_a_damaged_folder_is_generated_again(run: Path, damage: str) -> None:
    before = evaluated(run)
    folder = Path(before.samples["folder"])
    manifest = folder / MANIFEST
    if damage == "lost":
        manifest.unlink()
    elif damage == "others":
        manifest.write_text(manifest.read_text().replace('"seed": 0', '"seed": 1'))
    else:
        (folder / UNFINISHED).write_text('{"order": {"seed": 1}, "num_samples": 20}')
    (folder / "of_mine.txt").touch()
    after = evaluated(run)
    assert after["kid"] == before["kid"]
    assert after.seconds["sampling"] is not None
    assert (folder / "of_mine.txt").exists()
