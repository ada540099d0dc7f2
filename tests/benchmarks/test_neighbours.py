"""Benchmark of training next to busy programs: the commands it runs, and the rows of the speeds."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import neighbours
from tests.faults.conftest import TINY


def test_rows_compare_each_speed_with_that_of_a_quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = 0

    @contextlib.contextmanager
    def pretended(count: int) -> Iterator[None]:
        nonlocal busy
        busy = count
        yield
        busy = 0

    monkeypatch.setattr(neighbours, "neighbours", pretended)
    monkeypatch.setattr(neighbours, "images_per_second", lambda *given: 600 / (1 + busy))
    monkeypatch.setattr(neighbours, "peer_images_per_second", lambda: 300 / (1 + 9 * busy))
    rows = {row.what: row for row in neighbours.measure(rounds="1")}
    assert rows["training, digits, idle machine"].ratio == 1
    one, two = (rows[f"training, digits, next to {count}"] for count in ("1 busy neighbour", "2 busy neighbours"))
    assert (one.ours, one.peer, one.ratio, one.bound, one.verdict) == (300, 600, 2, pytest.approx(1.95), "MISS")
    assert (two.ratio, two.bound, two.verdict) == (3, pytest.approx(2.6), "MISS")
    if peer := rows.get("a loop of diffusers, next to 2 busy neighbours"):
        assert (peer.ratio, peer.bound) == (19, None)


def test_the_speed_is_that_of_a_whole_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert neighbours.images_per_second((*TINY, "training.epochs=1")) > 0


def test_neighbours_are_busy_and_end_with_the_block() -> None:
    def children() -> set[str]:
        return set(Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split())

    before = children()
    with neighbours.neighbours(1):
        assert children() - before
    assert children() <= before
