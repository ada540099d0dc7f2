"""The benchmark of the loop: a run and bare steps, one after the other."""

from __future__ import annotations

import pytest

from benchmarks import loop

TINY = ["model.architecture.model_channels=8", "training.epochs=1", "data.loading.batch_size=64"]


def test_the_run_ends_when_enough_steps_have_been_taken_of_both(tmp_path):
    callback = loop.side_by_side(loop.settings(TINY, tmp_path / "run"), 6)
    assert (len(callback.whole), len(callback.bare), callback.images) == (6, 6, 64)


def test_a_row_tells_the_share_of_the_bare_step_without_those_for_warming_up(monkeypatch):
    monkeypatch.setattr(loop.SideBySide, "seconds", lambda callback: (0.5, 0.25))
    found = loop.row("tiny", TINY, 1)
    assert (found.ours, found.peer, found.ratio, found.verdict) == (128, 256, 0.5, "MISS")


def test_steps_for_warming_up_are_left_out():
    callback = loop.SideBySide.__new__(loop.SideBySide)
    callback.whole, callback.bare = [9.0] * loop.WARM_UP + [2.0, 4.0], [9.0] * loop.WARM_UP + [1.0, 2.0]
    assert callback.seconds() == pytest.approx((3, 1.5))
