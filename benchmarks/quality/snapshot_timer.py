"""Training time without the time for snapshots, and networks with a given number of parameters."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import torch

MARKS = (1 / 8, 1 / 4, 1 / 2)
"""Fractions of the training time at which a snapshot is saved, besides the one at the end."""

MAX_SIZE_DIFFERENCE = 0.2


class SnapshotTimer:
    """Measures the training time and saves a snapshot at each mark; the time for saving is not counted.

    Args:
        seconds: Training time.
        save: Called with the training time so far to save the current weights.
        clock: Returns seconds.
    """

    def __init__(
        self, seconds: float, save: Callable[[float], None], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.seconds, self.save, self.clock = seconds, save, clock
        self._marks = [share * seconds for share in MARKS]
        self._began = clock()

    @property
    def elapsed(self) -> float:
        """Seconds of training so far."""
        return self.clock() - self._began

    def tick(self) -> bool:
        """Save a snapshot for each mark that has passed; return whether the training time is over."""
        while self._marks and self.elapsed >= self._marks[0]:
            self._marks.pop(0)
            self.save_now()
        return self.elapsed >= self.seconds

    def save_now(self) -> None:
        """Save a snapshot."""
        elapsed = self.elapsed
        before = self.clock()
        self.save(elapsed)
        self._began += self.clock() - before


def build_network_of_size(num_parameters: int, build: Callable[..., Any], options: Iterable[tuple[Any, ...]]) -> Any:
    """Build the network whose number of parameters is closest to ``num_parameters``.

    Args:
        num_parameters: Target number of parameters.
        build: Builds a network.
        options: Arguments to try, in order of the number of parameters.

    Raises:
        ValueError: No network is within 20 %.
    """
    counts: list[tuple[int, tuple[Any, ...]]] = []
    for arguments in options:
        with torch.device("meta"):
            counts.append((sum(weights.numel() for weights in build(*arguments).parameters()), arguments))
        if counts[-1][0] > num_parameters:
            break
    count, best = min(counts, key=lambda entry: abs(entry[0] / num_parameters - 1))
    if abs(count / num_parameters - 1) > MAX_SIZE_DIFFERENCE:
        raise ValueError(f"no network has {num_parameters:,} parameters within 20 %; the nearest has {count:,}")
    return build(*best)
