"""The estimate: how often each part of a run happens, what it adds up to, and what the stopwatch reads."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from diffusion_lab.preview import show
from diffusion_lab.preview import stopwatch as stopwatch_module
from diffusion_lab.preview.estimate import Counts, Estimate, count_parts
from diffusion_lab.preview.first_steps import synchronize
from diffusion_lab.preview.rehearsal import Timing
from diffusion_lab.preview.stopwatch import Stopwatch
from diffusion_lab.runs.folder import RunFolder
from diffusion_lab.runtime.control_groups import Limits
from diffusion_lab.training.prepare import PreparedRun, prepare_run
from tests.training.tiny import tiny_config

TIMING = Timing([0.5, 1.5], 2.0, 0.25, 4.0, 8.0, None, 0.125, 1000, 10**9)
"""A batch takes a second."""


def prepared(folder: Path, changes: dict[str, Any]) -> PreparedRun:
    config = tiny_config(folder, changes)
    return prepare_run(config, RunFolder.from_settings(config.output), None, Console(quiet=True))


class TestCounts:
    """18 training images in batches of 6 are three batches an epoch."""

    def test_of_all_parts(self, tmp_path: Path) -> None:
        changes = {
            "training.epochs": 10,
            "training.validation.frequency": 4,
            "training.visualization": {"enabled": True, "interval": 3, "num_samples": 3, "guidance_scale": 1.0},
            "training.checkpointing.save_frequency": 5,
        }
        counts = count_parts(prepared(tmp_path, changes))
        # Validated after 4 and 8, sampled after 3, 6, 9 and the last, saved after 5 and 10 and for each new best.
        assert counts == Counts(
            batches=30, epochs=10, validations=2, grids=4, evaluations=0, saved=4, kept=3, most_kept=4
        )

    def test_with_fewer_steps_than_epochs_and_accumulation(self, tmp_path: Path) -> None:
        changes = {"training.epochs": 10, "training.max_steps": 4, "training.accumulate_batches": 2}
        counts = count_parts(prepared(tmp_path, changes))
        assert (counts.batches, counts.epochs) == (6, 2)  # two optimizer steps an epoch, of three batches together

    def test_checkpoints_kept(self, tmp_path: Path) -> None:
        changes = {"training.epochs": 10, "training.checkpointing.keep_last": 3}
        counts = count_parts(prepared(tmp_path, changes))
        assert (counts.kept, counts.most_kept) == (3, 4)  # the best may be an earlier one

    def test_a_best_one_that_is_not_among_the_newest_is_kept(self, tmp_path: Path) -> None:
        changes = {
            "training.epochs": 10,
            "training.validation.frequency": 3,
            "training.checkpointing.save_frequency": 5,
            "training.checkpointing.keep_last": 1,
        }
        assert count_parts(prepared(tmp_path, changes)).kept == 2  # of epochs 10 and 9


class TestEstimate:
    COUNTS = Counts(batches=30, epochs=10, validations=2, grids=4, evaluations=0, saved=8, kept=3, most_kept=5)

    def estimate(self, folder: Path, changes: dict[str, Any] | None = None) -> Estimate:
        return Estimate(tiny_config(folder, changes), self.COUNTS, TIMING, batch_images=6)

    def test_adds_up(self, tmp_path: Path) -> None:
        estimate = self.estimate(tmp_path)
        assert estimate.parts == {
            "training": 2 + 30 + 2.5,
            "validation": 8,
            "sample_grids": 32,
            "evaluation": 0,
            "checkpoints": 1,
        }
        assert estimate.seconds == 75.5
        assert (estimate.disk_bytes, estimate.most_disk_bytes) == (3000, 5000)
        assert estimate.images_per_second == pytest.approx(180 / 34.5)

    def test_ends_with_max_time(self, tmp_path: Path) -> None:
        estimate = self.estimate(tmp_path, {"training.max_time": "00:00:01:00"})
        assert (estimate.seconds, estimate.all_epochs) == (60, 75.5)


class TestStopwatch:
    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
        clock = SimpleNamespace(now=0.0)
        clock.perf_counter = lambda: clock.now
        monkeypatch.setattr(stopwatch_module, "time", clock)
        return clock

    def batch(self, stopwatch: Stopwatch, clock: SimpleNamespace, seconds: float, last: bool = False) -> bool:
        """Let a batch take some time, and return whether the stopwatch ends the training."""
        clock.now += seconds
        trainer: Any = SimpleNamespace(should_stop=False, is_last_batch=last)
        batch: Any = SimpleNamespace(images=[0] * (2 if last else 6))
        stopwatch.on_train_batch_end(trainer, None, None, batch, 0)  # type: ignore[arg-type]
        return bool(trainer.should_stop)

    def test_excludes_the_warm_up_and_counts_it_once(self, clock: SimpleNamespace) -> None:
        stopwatch = Stopwatch(torch.device("cpu"), seconds=3, fewest=3)
        stopwatch.on_train_start(None, None)  # type: ignore[arg-type]
        stopwatch.on_train_epoch_start(None, None)  # type: ignore[arg-type]
        stops = [self.batch(stopwatch, clock, seconds) for seconds in (20, 3, 1, 1, 1, 1)]
        assert stops == [False] * 5 + [True]
        assert stopwatch.batch == 1
        assert stopwatch.warm_up == 21

    def test_gives_up_when_batches_take_long(self, clock: SimpleNamespace) -> None:
        stopwatch = Stopwatch(torch.device("cpu"), seconds=3, fewest=8, patience=60)
        stopwatch.on_train_start(None, None)  # type: ignore[arg-type]
        stopwatch.on_train_epoch_start(None, None)  # type: ignore[arg-type]
        assert [self.batch(stopwatch, clock, 13) for _ in range(5)] == [False] * 4 + [True]
        assert stopwatch.batch == 13

    def test_extrapolates_a_validation(self, clock: SimpleNamespace) -> None:
        stopwatch = Stopwatch(torch.device("cpu"))
        nothing: Any = None
        for slower in (5, 0):  # the first validation warms up
            stopwatch.on_train_epoch_start(nothing, nothing)
            self.batch(stopwatch, clock, 1, last=True)
            stopwatch.on_validation_start(nothing, nothing)
            for seconds in (2 + slower, 1, 1):
                clock.now += seconds
                stopwatch.on_validation_batch_end(nothing, nothing, None, None, 0)
            stopwatch.on_validation_end(nothing, nothing)
            clock.now += 0.5
        assert stopwatch.validation(3) == 4
        assert stopwatch.validation(13) == 14
        assert stopwatch.between_epochs == 0.5

    def test_speed_counts_the_images_of_smaller_batches(self, clock: SimpleNamespace) -> None:
        stopwatch = Stopwatch(torch.device("cpu"))
        nothing: Any = None
        stopwatch.on_train_epoch_start(nothing, nothing)
        for last in (False, True, False, True):
            self.batch(stopwatch, clock, 1, last)
        assert stopwatch.images_per_second == 4  # of 6 and 2 images


def test_apple_gpus_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[bool] = []
    monkeypatch.setattr(torch.mps, "synchronize", lambda: waited.append(True))
    synchronize(torch.device("mps"))
    assert waited == [True]


def test_memory_is_that_of_the_control_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show, "read_limits", lambda: Limits(memory=1000))
    assert show.memory_of(torch.device("cpu")) == 1000
    monkeypatch.setattr(show, "read_limits", Limits)
    assert show.memory_of(torch.device("cpu")) == show.host_memory()
