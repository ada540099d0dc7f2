"""The device that a setting means, and the threads that compute on a CPU."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator

import torch


def resolve_device(name: str, key: str = "compute.device") -> torch.device:
    """``auto`` is the best device there is; any other must be there.

    Raises:
        ValueError: The device is not on this machine.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(device for device, there in available.items() if there))
    if not available.get(name, False):
        there = ", ".join(device for device, is_there in available.items() if is_there)
        raise ValueError(f"{key} must be a device of this machine ({there}, or auto), got {name!r}")
    return torch.device(name)


def host_memory() -> float:
    """Return the memory of this machine in bytes; infinity where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):  # Windows; a system that does not know the names
        return math.inf


@contextlib.contextmanager
def computing_with(threads: int) -> Iterator[None]:
    """Let torch compute with so many threads; with as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
