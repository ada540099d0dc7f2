"""The benchmark of the training loop: a run with a bare step after each of its steps."""

from __future__ import annotations

import pytest

from benchmarks import loop

TINY = ["model.architecture.model_channels=8", "training.epochs=1", "data.loading.batch_size=64"]


def test_the_run_ends_after_enough_steps_of_both(tmp_path):
    callback = loop.side_by_side(loop.settings(TINY, tmp_path / "run"), 6)
    assert (len(callback.whole), len(callback.bare), callback.images) == (6, 6, 64)


def test_a_row_has_the_share_of_the_bare_step_without_warm_up(monkeypatch):
    monkeypatch.setattr(loop.SideBySide, "seconds", lambda callback: (0.5, 0.25))
    row = loop.row("tiny", TINY, 1)
    assert (row.ours, row.peer, row.ratio, row.verdict) == (128, 256, 0.5, "MISS")


def test_warm_up_steps_are_excluded():
    callback = loop.SideBySide.__new__(loop.SideBySide)
    callback.whole, callback.bare = [9.0] * loop.WARM_UP + [2.0, 4.0], [9.0] * loop.WARM_UP + [1.0, 2.0]
    assert callback.seconds() == pytest.approx((3, 1.5))
