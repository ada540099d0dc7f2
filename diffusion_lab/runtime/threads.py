"""Number of CPU threads, and how they wait for each other.

The threads of an operation wait for the slowest of them. If other programs use the same cores, one thread is always
waiting for a core, and all others for that thread: two threads on two cores shared with one busy program train a small
network at a quarter of their speed, one thread at its full speed. So a run uses the cores that are free when it starts,
and no more than its network benefits from.

This module does not import torch: how threads wait must be decided before torch is loaded.
"""

from __future__ import annotations

import os
import time
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path

SPIN_VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
SPIN_COUNT = 30_000
"""Iterations for which a thread of GNU OpenMP spins before it sleeps; a tenth of its default."""

FLOPS_PER_THREAD = 0.25e9
"""Forward operations of a batch that are worth one thread; with fewer, synchronization takes the time it saves."""

SHORTEST_LOOK, MAX_LOOK = 0.25, 60.0
"""Bounds on the time over which the load of the cores is measured, in seconds."""

PROC_STAT, CPU_QUOTA = Path("/proc/stat"), Path("/sys/fs/cgroup/cpu.max")


def bound_spinning(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let waiting threads sleep soon, unless the environment already sets this; call it before torch is imported."""
    if not any(name in environment for name in SPIN_VARIABLES):
        environment["GOMP_SPINCOUNT"] = str(SPIN_COUNT)


@dataclass(frozen=True)
class CoreTimes:
    """CPU times in seconds at one moment.

    Attributes:
        at: Monotonic time.
        idle: Total idle time of the cores that this process may use; None if unknown.
        own: CPU time of this process.
    """

    at: float
    idle: float | None
    own: float

    @classmethod
    def now(cls) -> CoreTimes:
        """Read the clocks."""
        return cls(time.monotonic(), _idle_seconds(), time.process_time())

    def free_cores(self, later: CoreTimes) -> float:
        """Return how many cores were free for this process until ``later``: idle, or working for it."""
        if self.idle is None or later.idle is None:
            return float(usable_cores())
        return (later.idle - self.idle + later.own - self.own) / (later.at - self.at)


def usable_cores() -> int:
    """Return the number of cores that this process may use, by its affinity and its control group's quota."""
    allowed = len(_allowed_cores())
    try:
        quota, period = CPU_QUOTA.read_text().split()
        return max(1, min(allowed, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no such file, or "max"
        return allowed


def free_cores() -> float:
    """Return how many of the usable cores other programs leave free, measured since the program started.

    If that is too long or too short ago, it is measured for a quarter of a second.
    """
    before, now = _at_import, CoreTimes.now()
    if not SHORTEST_LOOK <= now.at - before.at <= MAX_LOOK:
        time.sleep(SHORTEST_LOOK)
        before, now = now, CoreTimes.now()
    return min(before.free_cores(now), float(usable_cores()))


def choose_threads(flops: float | None, most: int, loader_workers: int = 0) -> int:
    """Return the number of threads to compute with on a CPU.

    Args:
        flops: Forward operations of a batch; None if unknown, which sets no limit.
        most: Maximum: torch's default, which ``OMP_NUM_THREADS`` sets.
        loader_workers: Number of loader processes besides this one; each gets a core.
    """
    worth = most if flops is None else int(flops / FLOPS_PER_THREAD)
    if min(most, worth) <= 1:
        return 1
    return max(1, min(most, worth, usable_cores() - loader_workers, round(free_cores()) - loader_workers))


def _allowed_cores() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _idle_seconds() -> float | None:
    """Return the idle time of the allowed cores, including I/O wait; None if there is no ``/proc/stat``."""
    try:
        lines = [line.split() for line in PROC_STAT.read_text().splitlines()]
        idle = {line[0]: int(line[4]) + int(line[5]) for line in lines if line[0].startswith("cpu")}
        return sum(idle[f"cpu{core}"] for core in _allowed_cores()) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, LookupError):
        return None


_at_import = CoreTimes.now()
