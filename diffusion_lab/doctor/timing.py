"""Alternating measurements of several variants, and which of them is the fastest beyond the noise."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

Name = TypeVar("Name", bound=Hashable)

CONFIDENCE = 0.95
FEWEST_ROUNDS = 6
"""Rounds that give an interval of this confidence: all six ratios lie on one side by chance in 3 % of cases."""

MOST_TIME = 4
"""Multiple of the seconds after which a slow machine stops, with fewer rounds."""

LEAST_GAIN = 1.02
"""Smallest ratio of speeds that is worth another setting."""


@dataclass(frozen=True)
class Ratio:
    """A ratio of speeds: median and interval of the given confidence.

    Args:
        median: Median of the ratios within a round.
        low: Lower end; 0 if there are too few rounds for an interval.
        high: Upper end; infinite in that case.
    """

    median: float
    low: float
    high: float

    @property
    def is_faster(self) -> bool:
        """Whether it is above 1 beyond the noise, by enough to matter."""
        return self.low > 1 and self.median >= LEAST_GAIN


def measure_alternately(
    ways: Mapping[Name, Callable[[], object]], seconds: float, clock: Callable[[], float] = time.perf_counter
) -> dict[Name, list[float]]:
    """Time each variant once per round until the time is over; every second round goes backwards.

    A slowdown of the machine then affects all variants, and none always follows the same one.

    Args:
        ways: The variants by name, already warmed up.
        seconds: Time for all rounds; at least ``FEWEST_ROUNDS``, unless they take ``MOST_TIME`` times as long.
        clock: Returns seconds.
    """
    taken: dict[Name, list[float]] = {name: [] for name in ways}
    names, began = list(ways), clock()
    while True:
        for name in names:
            start = clock()
            ways[name]()
            taken[name].append(clock() - start)
        names.reverse()
        rounds, passed = len(taken[names[0]]), clock() - began
        if passed >= seconds * MOST_TIME or (passed >= seconds and rounds >= FEWEST_ROUNDS):
            return taken
        gc.collect(0)


def ratio(before: Sequence[float], after: Sequence[float]) -> Ratio:
    """Return how many times as fast ``after`` is, from seconds of the same rounds."""
    ratios = sorted(one / other for one, other in zip(before, after, strict=True))
    rank = _rank(len(ratios))
    if rank is None:
        return Ratio(statistics.median(ratios), 0.0, math.inf)
    return Ratio(statistics.median(ratios), ratios[rank], ratios[-1 - rank])


def _rank(count: int) -> int | None:
    """Return the rank of the value that is the lower end of the median's interval; None for too few values.

    The median lies below the value of rank r (from 0) with the probability that at most r of ``count`` fair coins show
    heads: no distribution of the times is assumed.
    """
    tail, rank = 0.0, None
    for candidate in range(count // 2):
        tail += math.comb(count, candidate) / 2**count
        if 2 * tail > 1 - CONFIDENCE:
            break
        rank = candidate
    return rank


def fastest(taken: Mapping[str, Sequence[float]]) -> str:
    """Return the variant to use: a later one only if it is faster than the earlier ones beyond the noise."""
    best, *others = taken
    for name in others:
        if ratio(taken[best], taken[name]).is_faster:
            best = name
    return best
