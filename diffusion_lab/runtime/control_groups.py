"""Limits that control groups set for this process, of both versions, as in containers and batch jobs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


@dataclass(frozen=True)
class Limits:
    """Limits of the control groups; None: there is none.

    Args:
        cores: CPU time per second, in cores.
        memory: Bytes.
    """

    cores: float | None = None
    memory: int | None = None


def read_limits(root: Path = ROOT, own: Path = OWN) -> Limits:
    """Return the strictest limits of the groups of this process and of those around them."""
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return Limits()
    cores: list[float] = []
    memory: list[int] = []
    for _, controllers, path in (line for line in lines if len(line) == 3):
        names = controllers.split(",")
        for folder in _groups(root, path) if controllers == "" else ():
            quota = _numbers(folder / "cpu.max")
            cores += [quota[0] / quota[1]] if len(quota) == 2 else []
            memory += _numbers(folder / "memory.max")
        for folder in _groups(root / "cpu", path) if "cpu" in names else ():
            quota = _numbers(folder / "cpu.cfs_quota_us") + _numbers(folder / "cpu.cfs_period_us")
            cores += [quota[0] / quota[1]] if len(quota) == 2 and quota[0] > 0 else []  # -1: no limit
        for folder in _groups(root / "memory", path) if "memory" in names else ():
            memory += [limit for limit in _numbers(folder / "memory.limit_in_bytes") if limit < 2**60]  # none: 2^63
    return Limits(min(cores, default=None), min(memory, default=None))


def _groups(root: Path, path: str) -> Iterator[Path]:
    """Yield the folder of a group and of those around it; in a container only the outermost one may be visible."""
    folder = root / path.lstrip("/")
    yield folder
    yield from (parent for parent in folder.parents if parent.is_relative_to(root))


def _numbers(file: Path) -> list[int]:
    """Return the numbers in a file; none if it is missing, or says ``max``."""
    try:
        words = file.read_text().split()
        return [int(word) for word in words]
    except (OSError, ValueError):
        return []
