"""Benchmarks of scaling and of callbacks; no test uses the real clock."""

from __future__ import annotations

import time
from itertools import count

import numpy as np
import pytest

from benchmarks import callbacks, growth, growth_images
from benchmarks.growth import Size
from benchmarks.growth_images import Start
from benchmarks.harness import Timings


def test_small_batches_make_enough_steps_to_fill_a_turn():
    assert [Size(batch, 32).steps for batch in (1, 4, 16, 64)] == [16, 4, 1, 1]
    assert [Size(growth.PIXELS // side**2, side).steps for side in growth.SIDES] == [1] * 5


def test_sizes_are_compared_by_pixels_and_shares_by_the_limit():
    batches, sides = [Size(1, 32), Size(32, 32)], [Size(256, 8), Size(16, 32)]
    seconds = {"32×32, batch 1": [2.0], "32×32, batch 32": [1.0], "8×8, batch 256": [1.0], "32×32, batch 16": [4.0]}
    work, kept = {32: 10**9, 8: 10**8}, dict.fromkeys([*batches, *sides], 3.0)
    rows = growth.rows(Timings({**seconds, growth.LIMIT: [0.1]}), work, kept, batches, sides)
    assert [row.ours for row in rows] == [8, 32, 16.384, 4.096]
    assert [row.ratio for row in rows] == [None, 4, None, 0.25]
    assert [row.share for row in rows] == pytest.approx([0.8 / 17.18, 3.2 / 17.18, 2.56 / 17.18, 0.4 / 17.18], rel=1e-3)
    assert {row.verdict for row in rows} == {""}


def test_larger_images_have_more_work_and_larger_batches_more_activations(monkeypatch):
    monkeypatch.setattr(growth, "CHANNELS", 8)
    assert growth.flops_of(16) > 4 * growth.flops_of(8)  # attention grows faster than the number of pixels
    assert growth.kept_megabytes(Size(4, 8)) == pytest.approx(4 * growth.kept_megabytes(Size(1, 8)), rel=0.01)


def test_all_sizes_are_trained(monkeypatch):
    monkeypatch.setattr(growth, "CHANNELS", 8)
    monkeypatch.setattr(growth, "SIDE", 8)
    monkeypatch.setattr(growth, "PIXELS", 64)
    monkeypatch.setattr(growth, "matrix_product", lambda dtype: lambda: None)
    rows = growth.measure(rounds="1", batches=(1, 2), sides=(8, 16), pixels=256)
    assert [row.what.partition("channels, ")[2] for row in rows] == [
        *("8×8, batch 1", "8×8, batch 2"),
        *("8×8, batch 4", "16×16, batch 1"),
    ]
    assert all(row.ours for row in rows)


def test_a_start_draws_its_batches_from_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(growth_images, "BATCHES", 4)  # more than one epoch has
    growth_images.make_pixels(tmp_path / "cache", 100)
    assert np.fromfile(tmp_path / "cache", np.uint8).size == 100 * 3 * growth_images.SIDE**2
    start = growth_images.one_start(tmp_path / "cache", 100, time.monotonic())
    assert start.first_batch >= start.opening > 0
    assert start.batch > 0
    assert start.memory > 10


def test_what_grows_with_the_images_is_a_miss():
    few, many = Start(5.0, 0.01, 300.0, 1e-4), Start(5.5, 0.2, 600.0, 1.1e-4)
    rows = growth_images.rows({1000: [few], 1_000_000: [many]})
    assert [row.ratio for row in rows] == pytest.approx([1.1, 2, 1.1])
    assert [row.verdict for row in rows] == ["reached", "MISS", "reached"]
    assert "315 bytes per additional image" in rows[1].note


def test_listing_a_folder_is_reported_per_file(tmp_path):
    row = growth_images.listing_row(tmp_path, 20)
    assert len(list(tmp_path.rglob("*.png"))) == 20
    assert row.ours
    assert row.verdict == ""


class Worker:
    """Has a method that calls another of its methods."""

    def outer(self, times: int) -> str:
        return ", ".join(self.inner() for _ in range(times))

    def inner(self) -> str:
        return "done"

    def fails(self) -> None:
        raise ValueError("no")


def test_time_inside_another_method_counts_once():
    worker, stopwatch = Worker(), callbacks.Stopwatch(clock=count().__next__)
    for name in ("outer", "inner", "fails"):
        stopwatch.watch(worker, name)
    assert worker.outer(times=2) == "done, done"
    assert stopwatch.seconds_in(worker, ["inner"]) == 2
    assert stopwatch.seconds_in(worker, ["outer"]) == 3  # five ticks, two of them in inner
    with pytest.raises(ValueError, match="no"):
        worker.fails()
    assert stopwatch.seconds_in(worker, ["fails"]) == 1
    assert stopwatch.seconds_in(Worker(), ["outer"]) == 0


def test_costs_are_those_of_a_step():
    first, second = Worker(), Worker()
    stopwatch = callbacks.Stopwatch()
    stopwatch.seconds.update(
        {(first, "log_metrics"): 2.0, (second, "on_train_batch_end"): 1.0, (second, "on_train_epoch_end"): 5.0}
    )
    logger, callback, together = callbacks.rows(stopwatch, [second], [first], steps=100, step=1.0)
    assert (logger.ours, callback.ours, together.ours) == pytest.approx((2e4, 1e4, 3e4))
    assert "at epochs 50,000 µs" in callback.note
    assert (logger.ratio, callback.ratio, together.ratio) == pytest.approx((0.02, 0.01, 0.03))


def test_every_logger_and_callback_of_a_run_is_counted(tmp_path):
    """Each callback or logger that does something in a step has taken some time in one epoch."""
    quick = ["model.architecture.model_channels=8", "data.loading.batch_size=256"]
    quick += ["training.visualization.num_samples=1", "sampler.steps=1", "training.log_interval=2"]
    rows = {row.what: row for row in callbacks.measure(epochs="1", overrides=quick)}
    idle = {what for what, row in rows.items() if not row.ours}
    assert idle == {f"callback {name}" for name in ("RNGState", "SampleImages", "RestoreErrors", "RunFolderGuard")}
    assert set(rows) - idle == {
        *("logger metrics.jsonl", "logger TensorBoard", "logger W&B offline", "callback EMACallback"),
        *("callback TrainingMonitor", "callback TrainingProgress (bar)", "callback Checkpoints"),
        *("callback GracefulStop", "callback TrainingLimits", "all loggers and callbacks"),
    }
    assert "at epochs" in rows["callback SampleImages"].note
    parts = [row.ours for what, row in rows.items() if what != "all loggers and callbacks"]
    assert rows["all loggers and callbacks"].ours == pytest.approx(sum(parts))
