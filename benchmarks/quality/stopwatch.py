"""When to keep weights, and when the time is up; keeping them takes no time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import torch

MARKS = (1 / 8, 1 / 4, 1 / 2)
"""Shares of the time after which weights are kept, beside those at its end."""


class Stopwatch:
    """Counts the seconds of training; ``keep`` is called with them at each mark, and is not counted.

    Args:
        seconds: How long to train.
        keep: Keeps the weights as they are.
        clock: Gives seconds.
    """

    def __init__(
        self, seconds: float, keep: Callable[[float], None], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.seconds, self.keep, self.clock = seconds, keep, clock
        self._marks = [share * seconds for share in MARKS]
        self._began = clock()

    @property
    def elapsed(self) -> float:
        """Seconds of training so far."""
        return self.clock() - self._began

    def tick(self) -> bool:
        """Keep the weights where a mark has passed; True where the time is up."""
        while self._marks and self.elapsed >= self._marks[0]:
            self._marks.pop(0)
            self.keep_now()
        return self.elapsed >= self.seconds

    def keep_now(self) -> None:
        """Keep the weights."""
        elapsed = self.elapsed
        before = self.clock()
        self.keep(elapsed)
        self._began += self.clock() - before


def nearest(wanted: int, make: Callable[..., Any], shapes: Iterable[tuple[Any, ...]]) -> Any:
    """Make the network whose number of parameters is nearest to the wanted one.

    Args:
        wanted: Number of parameters.
        make: Makes a network.
        shapes: Arguments to try, in order of the number of parameters.

    Raises:
        ValueError: None is within 20 %.
    """
    counts: list[tuple[int, tuple[Any, ...]]] = []
    for shape in shapes:
        with torch.device("meta"):
            counts.append((sum(weights.numel() for weights in make(*shape).parameters()), shape))
        if counts[-1][0] > wanted:
            break
    count, found = min(counts, key=lambda each: abs(each[0] / wanted - 1))
    if abs(count / wanted - 1) > MOST_DIFFERENCE:
        raise ValueError(f"no network has {wanted:,} parameters within 20 %; the nearest has {count:,}")
    return make(*found)


MOST_DIFFERENCE = 0.2
