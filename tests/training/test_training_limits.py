"""Runs that end by max_steps, max_time or a callback: complete, and continued as if not interrupted."""

from __future__ import annotations

import io
import json
import math
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console

from diffusion_lab.checkpoint import find_checkpoint
from diffusion_lab.faults import ConfigWarning
from diffusion_lab.training.callbacks import TrainingLimits, TrainingProgress
from diffusion_lab.training.callbacks import training_limits as module_of_limits
from tests.sameness import assert_same_state
from tests.training.tiny import saved, tiny_run

RUN: dict[str, Any] = {"training.epochs": 4, "training.checkpointing.save_frequency": 10}
"""Epochs of three batches of six images, and no periodic checkpoint."""
SAMPLES = {"training.visualization": {"enabled": True, "interval": 10, "num_samples": 3, "guidance_scale": 1.0}}
AUTO = {"training.resume": {"enabled": True, "checkpoint": "auto", "reset_optimizer": False, "reset_scheduler": False}}
EARLY_STOPPING = "lightning.pytorch.callbacks.EarlyStopping"


def early_stopping(**arguments: Any) -> dict[str, Any]:
    return {"training.callbacks": [{"_target_": EARLY_STOPPING, "monitor": "val/loss", **arguments}]}


def lines(folder: Path, name: str) -> list[tuple[int, float]]:
    metrics = map(json.loads, (folder / "logs/metrics.jsonl").read_text().splitlines())
    return [(line["step"], line[name]) for line in metrics if name in line]


def content(folder: Path) -> dict[str, Any]:
    return saved(find_checkpoint(folder, "last"))


def assert_same_training(first: Path, second: Path) -> None:
    """The last checkpoints have equal weights, averages, optimizer state, schedule and position."""
    assert_same_state(first, second)
    assert content(first)["loops"] == content(second)["loops"]


def printed(folder: Path, changes: dict[str, Any]) -> str:
    shown = io.StringIO()
    tiny_run(folder, changes, Console(file=shown, width=300))
    return shown.getvalue()


class TestMaxSteps:
    def test_the_run_ends_after_the_step_with_a_checkpoint_and_a_validation(self, tmp_path: Path) -> None:
        summary = tiny_run(tmp_path, RUN | {"training.max_steps": 5})
        assert (summary.steps, summary.epochs) == (5, 1), "the second epoch is not complete"
        assert [step for step, _ in lines(tmp_path, "train/loss")] == [0, 1, 2, 3, 4]
        assert [step for step, _ in lines(tmp_path, "val/loss")] == [2, 4]
        assert summary.last_checkpoint is not None
        last = saved(Path(summary.last_checkpoint))
        assert last["diffusion_lab"]["step"] == last["global_step"] == 5
        assert last["diffusion_lab"]["epochs_done"] == 1
        assert summary.best_value == pytest.approx(min(value for _, value in lines(tmp_path, "val/loss")))

    @pytest.mark.parametrize("accumulated", [1, 2])
    def test_a_larger_limit_continues_as_if_not_interrupted(self, tmp_path: Path, accumulated: int) -> None:
        """From the middle of an epoch, with momentum, averages and a plateau schedule."""
        same = RUN | {
            "training.accumulate_batches": accumulated,
            "training.scheduler": {"type": "plateau", "patience": 0},
        }
        tiny_run(tmp_path / "whole", same | {"training.max_steps": 7})
        tiny_run(tmp_path / "parts", same | {"training.max_steps": 3 if accumulated == 2 else 4})
        tiny_run(tmp_path / "parts", same | {"training.max_steps": 7} | AUTO)
        assert_same_training(tmp_path / "whole", tmp_path / "parts")
        assert content(tmp_path / "parts")["global_step"] == 7

    def test_removing_the_limit_continues_to_the_last_epoch(self, tmp_path: Path) -> None:
        tiny_run(tmp_path / "whole", RUN)
        tiny_run(tmp_path / "parts", RUN | {"training.max_steps": 4})
        summary = tiny_run(tmp_path / "parts", RUN | AUTO)
        assert (summary.steps, summary.epochs) == (12, 4)
        assert_same_training(tmp_path / "whole", tmp_path / "parts")

    def test_resuming_a_complete_run_trains_nothing(self, tmp_path: Path) -> None:
        first = tiny_run(tmp_path, RUN | {"training.max_steps": 4})
        before = (tmp_path / "logs/metrics.jsonl").read_text()
        shown = io.StringIO()
        again = tiny_run(tmp_path, RUN | {"training.max_steps": 4} | AUTO, Console(file=shown, width=300))
        assert again == first
        assert "has done 4 steps (training.max_steps=4); nothing is trained or written" in shown.getvalue()
        assert (tmp_path / "logs/metrics.jsonl").read_text() == before

    def test_a_summary_that_a_killed_run_did_not_write_is_written(self, tmp_path: Path) -> None:
        first = tiny_run(tmp_path, RUN | {"training.max_steps": 4})
        (tmp_path / "summary.json").unlink()
        again = tiny_run(tmp_path, RUN | {"training.max_steps": 4} | AUTO)
        assert (again.steps, again.epochs, again.last_checkpoint) == (4, 1, first.last_checkpoint)

    def test_schedules_end_with_the_last_step(self, tmp_path: Path) -> None:
        schedule = {"training.scheduler": {"type": "warmup_cosine", "warmup_steps": 1, "eta_min": 0.0}}
        tiny_run(tmp_path / "limited", RUN | schedule | {"training.max_steps": 6})
        tiny_run(tmp_path / "short", RUN | schedule | {"training.epochs": 2})
        rates = [lines(tmp_path / name, "train/learning_rate") for name in ("limited", "short")]
        assert rates[0] == rates[1]

    def test_the_length_of_cosine_is_the_number_of_epochs(self, tmp_path: Path) -> None:
        schedule = {"training.scheduler": {"type": "cosine", "T_max": "auto", "eta_min": 0.0}}
        tiny_run(tmp_path, RUN | schedule | {"training.max_steps": 5})
        assert lines(tmp_path, "train/learning_rate")[3][1] == pytest.approx(0.005), "half of two epochs"

    def test_samples_are_drawn_in_the_last_epoch(self, tmp_path: Path) -> None:
        tiny_run(tmp_path, RUN | SAMPLES | {"training.max_steps": 5})
        assert [file.name for file in (tmp_path / "samples").glob("*.png")] == ["epoch_0002.png"]

    def test_a_limit_that_is_not_reached_is_reported(self, tmp_path: Path) -> None:
        with pytest.warns(ConfigWarning, match=r"max_steps = 13 is not reached: .*=4 end after 12 .*epochs=5 would"):
            summary = tiny_run(tmp_path, RUN | {"training.max_steps": 13})
        assert summary.steps == 12

    def test_the_start_lines_have_the_limits(self, tmp_path: Path) -> None:
        said = printed(tmp_path, RUN | {"training.max_steps": 5, "training.max_time": "01:00:00:00"})
        length = "at most 01:00:00:00 (training.max_time), 5 steps (training.max_steps) in 2 epochs of 3 batches of 6"
        assert length in said
        assert "training ends after step 5: training.max_steps=5" in said


class Clock:
    """Clock that advances by a second with each optimizer step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(module_of_limits.time, "monotonic", lambda: self.now)


class Tick(Callback):
    clock: Clock

    def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        self.clock.now += 1


class TestMaxTime:
    LIMIT = {"training.max_time": "00:00:00:05", "training.callbacks": [f"{__name__}.Tick"]}  # noqa: RUF012

    def test_the_run_ends_and_a_longer_one_continues(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        tiny_run(tmp_path / "whole", RUN)
        Tick.clock = Clock(monkeypatch)
        said = printed(tmp_path / "parts", RUN | self.LIMIT)
        assert "training ends after step 5: training.max_time=0:00:05" in said
        assert content(tmp_path / "parts")["global_step"] == 5
        again = printed(tmp_path / "parts", RUN | self.LIMIT | AUTO)
        assert "has ended after 5 steps (training.max_time); nothing is trained or written" in again
        longer = tiny_run(tmp_path / "parts", RUN | self.LIMIT | {"training.max_time": "00:00:00:08"} | AUTO)
        assert longer.steps == 8, "the time of the first part counts"
        assert tiny_run(tmp_path / "parts", RUN | AUTO).steps == 12
        assert_same_training(tmp_path / "whole", tmp_path / "parts")


class TestEarlyStopping:
    def test_the_run_is_complete_and_its_last_epoch_has_a_checkpoint_and_samples(self, tmp_path: Path) -> None:
        stopping = RUN | early_stopping(stopping_threshold=1e9)
        stopping |= {
            "training.visualization": {"enabled": True, "interval": 10, "num_samples": 3, "guidance_scale": 1.0}
        }
        said = printed(tmp_path, stopping)
        assert "training ends after step 3: Stopping threshold reached: val/loss = " in said
        assert [file.name for file in (tmp_path / "samples").glob("*.png")] == ["epoch_0001.png"]
        summary = json.loads((tmp_path / "summary.json").read_text())
        assert (summary["epochs"], summary["steps"], summary["best_epoch"]) == (1, 3, 1)
        again = printed(tmp_path, stopping | AUTO)
        assert "has ended after 3 steps (training.callbacks); nothing is trained or written" in again

    def test_its_counter_survives_an_interruption(self, tmp_path: Path) -> None:
        """No epoch improves by a thousand, so that the third one without an improvement ends the run."""
        never = RUN | early_stopping(patience=2, min_delta=1e3)
        whole = tiny_run(tmp_path / "whole", never)
        assert whole.epochs == 3
        stop = {"training.callbacks": [*never["training.callbacks"], f"{__name__}.FailInTheThirdEpoch"]}
        with pytest.raises(RuntimeError, match="stopped here"):
            tiny_run(tmp_path / "parts", never | stop | {"training.checkpointing.save_frequency": 1})
        assert content(tmp_path / "parts")["diffusion_lab"]["epochs_done"] == 2
        assert tiny_run(tmp_path / "parts", never | AUTO).epochs == 3
        assert_same_training(tmp_path / "whole", tmp_path / "parts")

    def test_more_patience_continues(self, tmp_path: Path) -> None:
        """The counter is that of the checkpoint, the patience that of the settings."""
        six = RUN | {"training.epochs": 6}
        tiny_run(tmp_path, six | early_stopping(patience=1, min_delta=1e3))
        shown = io.StringIO()
        longer = six | early_stopping(patience=3, min_delta=1e3) | AUTO
        assert tiny_run(tmp_path, longer, Console(file=shown, width=500)).epochs == 4
        assert "training.callbacks was [" in shown.getvalue()
        assert tiny_run(tmp_path, six | AUTO).epochs == 6


class FailInTheThirdEpoch(Callback):
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 2:
            raise RuntimeError("stopped here")


class StopInAnEpoch(Callback):
    """Asks to stop where that cannot be done: before an epoch's first batch, or within an optimizer step."""

    def __init__(self, batch: int | None = None) -> None:
        self.batch = batch

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = self.batch is None and trainer.current_epoch == 1

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.should_stop or trainer.fit_loop.total_batch_idx + 1 == self.batch


@pytest.mark.parametrize(("batch", "steps"), [(None, 3), (1, 1), (4, 3)])
def test_a_callback_that_stops_the_run_lets_it_finish_the_step(tmp_path: Path, batch: int | None, steps: int) -> None:
    """Of three batches per epoch, two per step: the run continues as if it had not been interrupted."""
    same = RUN | {"training.accumulate_batches": 2}
    stop = {"training.callbacks": [{"_target_": f"{__name__}.StopInAnEpoch", "batch": batch}]}
    assert tiny_run(tmp_path / "parts", same | stop).steps == steps
    tiny_run(tmp_path / "parts", same | AUTO)
    tiny_run(tmp_path / "whole", same)
    assert_same_training(tmp_path / "whole", tmp_path / "parts")


def test_the_time_left_follows_the_limits() -> None:
    """A batch takes a second here; two of 36 are done, and nine batches of an epoch make five steps."""
    batches = SimpleNamespace(batch_progress=SimpleNamespace(current=SimpleNamespace(ready=2)))
    trainer: Any = SimpleNamespace(num_training_batches=9, max_epochs=4, accumulate_grad_batches=2, global_step=1)
    trainer.current_epoch, trainer.fit_loop = 0, SimpleNamespace(epoch_loop=batches)
    limits = TrainingLimits(SimpleNamespace(), max_steps=8)  # type: ignore[arg-type]
    progress = TrainingProgress(Console(quiet=True), limits=limits)
    progress._first, progress._batches_done = (1, 100.0), 3
    assert (progress._steps(trainer), progress._seconds_left(trainer, now=102.0)) == (8, 14)
    limits.max_steps, limits.max_time = None, timedelta(seconds=90)
    limits.load_state_dict({"seconds": 60.0})
    assert math.isclose(limits.elapsed.total_seconds(), 60)
    assert (progress._steps(trainer), progress._seconds_left(trainer, now=102.0)) == (20, 30)
    progress.steps = 17
    assert progress._steps(trainer) == 17
    limits.max_time = None
    assert progress._seconds_left(trainer, now=102.0) == 34
