from __future__ import annotations

import io
import json
import math
from collections.abc import Container, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from diffusion_lab.checkpoint import find_checkpoint, load_denoiser, verify
from diffusion_lab.checkpoint.files import step_name
from diffusion_lab.config import ConfigWarning, GenerateConfig, get_default_config
from diffusion_lab.config.validate import parse_as
from diffusion_lab.generation.generate import generate
from diffusion_lab.training.callbacks import Checkpoints
from diffusion_lab.training.checkpoint_io import AtomicCheckpointIO, BackgroundCheckpointIO
from diffusion_lab.training.watched_metric import WatchedMetric
from tests.training.tiny import BIAS_PLAN, CLASSES, saved, tiny_run


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").glob("*.ckpt"))


NO_VALIDATION = {"training.validation.enabled": False}


def keeping(**changes: Any) -> dict[str, Any]:
    return {f"training.checkpointing.{key}": value for key, value in changes.items()}


def validated(folder: Path) -> list[float]:
    """The validation loss of each epoch."""
    lines = [json.loads(line) for line in (folder / "logs" / "metrics.jsonl").read_text().splitlines()]
    return [line["val/loss"] for line in lines if "val/loss" in line]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run of five epochs, saved every two; the third is the best by construction."""
    folder = tmp_path_factory.mktemp("run")
    tiny_run(folder, BIAS_PLAN | {"training.epochs": 5})
    return folder


def test_periodic_best_and_last_checkpoints_are_saved(run: Path) -> None:
    """An epoch has three steps."""
    summary = json.loads((run / "summary.json").read_text())
    assert summary["best_epoch"] == 3
    epochs = (2, 3, 4, 5)
    assert names(run) == ["best.ckpt", *(step_name(3 * epoch) for epoch in epochs)]
    for epoch in epochs:
        assert saved(run / "checkpoints" / step_name(3 * epoch))["diffusion_lab"]["epochs_done"] == epoch
    assert all(verify(run / "checkpoints" / name) for name in names(run))
    assert find_checkpoint(run, "last").name == step_name(15)


def test_only_the_newest_two_are_kept(tmp_path: Path) -> None:
    """The best is kept besides them."""
    changes = keeping(save_best_only=True, save_frequency=1) | BIAS_PLAN | {"training.epochs": 6}
    assert tiny_run(tmp_path, changes).best_epoch == 3
    assert names(tmp_path) == ["best.ckpt", *(step_name(3 * epoch) for epoch in (3, 5, 6))]


def test_partial_files_of_a_killed_run_are_removed_by_the_next_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    partial, theirs = folder / ".step_00000002.ckpt.0123abcd.partial", folder / ".mine.partial"
    for file in (partial, theirs):
        file.write_bytes(b"half")
    tiny_run(tmp_path)
    assert not partial.exists()
    assert theirs.exists()


@pytest.mark.parametrize(
    ("every", "best_only", "last", "epochs"),
    [
        (1, False, 2, {5, 6}),
        (1, False, 1, {6}),
        (2, False, 2, {4, 6}),  # periodic ones come first
        (2, False, 4, {2, 4, 5, 6}),  # then others: each epoch is a new best here
        (4, False, 3, {4, 5, 6}),
        (1, True, 3, {4, 5, 6}),
    ],
)
def test_keep_last_keeps_the_newest_and_the_best(
    tmp_path: Path, every: int, best_only: bool, last: int, epochs: set[int]
) -> None:
    saved_at(tmp_path, range(1, 7), keep_last=last, every=every, best_only=best_only, best_at=range(1, 7))
    assert names(tmp_path) == ["best.ckpt", *(step_name(epoch) for epoch in sorted(epochs))]


def test_the_best_is_kept_even_if_it_is_not_among_the_last(tmp_path: Path) -> None:
    saved_at(tmp_path, range(1, 7), keep_last=2, every=1, best_only=False, best_at=[1, 2])
    assert names(tmp_path) == ["best.ckpt", *(step_name(epoch) for epoch in (2, 5, 6))]
    assert (tmp_path / "checkpoints" / "best.ckpt").resolve().name == step_name(2)


def test_only_files_that_the_run_wrote_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    AtomicCheckpointIO().save_checkpoint({"diffusion_lab": {"step": 1, "run_id": "another"}}, folder / step_name(1))
    (folder / step_name(2)).write_bytes(b"whatever it is")
    (folder / "step_00000001_good.ckpt").write_bytes(b"mine")
    (folder / step_name(3)).mkdir()
    saved_at(tmp_path, range(4, 9), keep_last=1, every=1, best_only=False, best_at=[])
    assert names(tmp_path) == [step_name(1), "step_00000001_good.ckpt", step_name(2), step_name(3), step_name(8)]


def saved_at(
    run: Path, steps: Iterable[int], keep_last: int, every: int, best_only: bool, best_at: Container[int]
) -> None:
    """Save a checkpoint at each of these steps, one per epoch, some of them the best so far, without training."""
    checkpoints = Checkpoints(
        run / "checkpoints", every, best_only, True, WatchedMetric("val/loss"), keep_last, run_id="mine"
    )
    io = BackgroundCheckpointIO()
    for step in steps:
        metadata = {"diffusion_lab": {"step": step, "run_id": "mine"}}
        trainer = SimpleNamespace(
            strategy=SimpleNamespace(checkpoint_io=io),
            save_checkpoint=lambda path, weights_only, metadata=metadata: io.save_checkpoint(metadata, path),
            current_epoch=step - 1,
            global_step=step,
            max_epochs=10,
            should_stop=False,
            enable_validation=True,
            check_val_every_n_epoch=1,
            callback_metrics={"val/loss": 1 / step if step in best_at else math.nan},
        )
        checkpoints.setup(trainer, None, "fit")  # type: ignore[arg-type]
        checkpoints.on_train_epoch_end(trainer, None)  # type: ignore[arg-type]
    checkpoints.on_train_end(trainer, None)  # type: ignore[arg-type]
    io.teardown()


def test_best_follows_the_metric(run: Path) -> None:
    losses = validated(run)
    assert len(losses) == 5
    assert all(other > 3 * losses[2] for epoch, other in enumerate(losses) if epoch != 2)
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["best_epoch"], summary["best_value"]) == (3, losses[2])
    assert saved(run / "checkpoints" / "best.ckpt")["diffusion_lab"]["epochs_done"] == 3


def test_each_file_holds_ema_raw_weights_and_metadata(run: Path) -> None:
    for name in names(run):
        content = saved(run / "checkpoints" / name)
        raw = {key for key in content["state_dict"] if key.startswith("denoiser.")}
        averaged = {key for key in content["state_dict"] if key.startswith("ema.average.")}
        assert {key.removeprefix("denoiser.") for key in raw} == {key.removeprefix("ema.average.") for key in averaged}
        assert any(
            not torch.equal(content["state_dict"][key], content["state_dict"][f"ema.average.{key[9:]}"]) for key in raw
        )
        metadata = content["diffusion_lab"]
        assert metadata["class_names"] == list(CLASSES)
        assert metadata["config"]["model"]["architecture"]["model_channels"] == 8
        assert metadata["environment"]["packages"]["torch"]


def test_both_kinds_of_weights_load(run: Path) -> None:
    averaged, raw = (load_denoiser(run, use_ema=use_ema) for use_ema in (True, False))
    content = saved(run / "checkpoints" / "best.ckpt")["state_dict"]
    assert all(torch.equal(value, content[f"ema.average.{name}"]) for name, value in averaged.state_dict().items())
    assert all(torch.equal(value, content[f"denoiser.{name}"]) for name, value in raw.state_dict().items())


def test_each_of_several_averages_can_be_sampled_from(tmp_path: Path) -> None:
    """Warm-up is off, so that two decays give two averages after six steps."""
    ema = {"training.ema.warmup": False, "training.ema.decay": 0.5, "training.ema.further_decays": [0.9]}
    with pytest.warns(ConfigWarning, match=r"training\.ema\.further_decays\[0\] = 0\.9 is too slow"):
        tiny_run(tmp_path, ema)
    state = saved(find_checkpoint(tmp_path, "last"))["state_dict"]
    prefixes = {None: "ema.average.", 0.5: "ema.average.", 0.9: "ema.further.0."}
    for decay, prefix in prefixes.items():
        average = load_denoiser(find_checkpoint(tmp_path, "last"), ema_decay=decay).state_dict()
        assert all(torch.equal(value, state[prefix + name]) for name, value in average.items())
    pictures = {decay: made_with(tmp_path, decay) for decay in prefixes}
    assert pictures[None] == pictures[0.5]
    assert pictures[None] != pictures[0.9]


def made_with(run: Path, decay: float | None) -> list[bytes]:
    """Return images sampled from one average of a run, whose decay is in their metadata."""
    tree: Any = get_default_config()
    tree = {name: tree[name] for name in ("experiment", "output", "generation")}
    tree |= {"mode": "generate", "sampler": {"type": "ddim", "steps": 2}, "compute": {"device": "cpu", "seed": 0}}
    tree["output"] |= {"base_dir": str(run / f"made_{decay}")}
    tree["generation"] |= {"checkpoint": str(find_checkpoint(run, "last"))}
    tree["generation"]["sampling"] |= {"num_samples": 3, "ema_decay": decay}
    folder = generate(parse_as(GenerateConfig, tree), show_progress=False).folder
    lines = (folder / "manifest.jsonl").read_text().splitlines()
    assert {json.loads(line)["ema_decay"] for line in lines} == {decay or 0.5}
    return [np.asarray(Image.open(folder / json.loads(line)["file"])).tobytes() for line in lines]


def test_without_optimizer(tmp_path: Path) -> None:
    tiny_run(tmp_path, keeping(save_optimizer=False))
    content = saved(find_checkpoint(tmp_path, "last"))
    assert "optimizer_states" not in content
    assert load_denoiser(tmp_path).class_names == CLASSES


def test_epoch_without_validation_is_never_best(tmp_path: Path) -> None:
    """Its metric would be of an earlier epoch."""
    summary = tiny_run(tmp_path, {"training.epochs": 3, "training.validation.frequency": 2})
    assert len(validated(tmp_path)) == 1
    assert summary.best_epoch == 2


def test_without_validation_there_is_no_best(tmp_path: Path) -> None:
    summary = tiny_run(tmp_path, NO_VALIDATION | keeping(save_frequency=10))
    assert names(tmp_path) == [step_name(4 * 2)]
    assert (summary.best_value, summary.best_epoch, summary.best_checkpoint) == (None, None, None)
    assert summary.train_images == 24  # none is held out


@pytest.mark.parametrize("when", ["before the end", "after the end"])
def test_checkpoints_removed_after_the_last_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """They are saved again; if it is too late for that, the summary and the console name none."""
    end = Checkpoints.on_train_end

    def removing(self: Checkpoints, *arguments: Any) -> None:
        if when == "after the end":
            end(self, *arguments)
        self._finish()
        for file in self.folder.iterdir():
            file.unlink()
        if when == "before the end":
            end(self, *arguments)

    monkeypatch.setattr(Checkpoints, "on_train_end", removing)
    console = Console(file=io.StringIO(), width=200)
    summary = tiny_run(tmp_path, {"training.epochs": 1}, console)
    output = console.file.getvalue()  # type: ignore[attr-defined]
    assert json.loads((tmp_path / "summary.json").read_text())["last_checkpoint"] == summary.last_checkpoint
    if when == "before the end":
        last = tmp_path / "checkpoints" / step_name(3)
        assert summary.last_checkpoint == str(last)
        assert verify(last)
        assert f"last checkpoint {last}" in output
        return
    assert (summary.last_checkpoint, summary.best_checkpoint) == (None, None)
    assert "last checkpoint none: its file was removed" in output
    assert "sample from it" not in output
