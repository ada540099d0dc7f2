"""Freed memory: kept by glibc for the next step, or returned to the system."""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
from collections.abc import Iterator, Mapping
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Thresholds in malloc.h for returning memory to the system: free bytes at the end of the heap, and of a block."""

KEPT = {M_TRIM_THRESHOLD: -1, M_MMAP_THRESHOLD: 2**30}  # -1 is never
USUAL = {M_TRIM_THRESHOLD: 2**26, M_MMAP_THRESHOLD: 2**25}
"""Values that glibc's dynamic adjustment, which stops once they are set, would reach over time."""
RETURNED = {M_TRIM_THRESHOLD: 2**20, M_MMAP_THRESHOLD: 2**20}


class _Keeping:
    """Number of active blocks that keep freed memory, and whether memory has ever run out."""

    def __init__(self) -> None:
        self.users, self.scarce = 0, False
        self.lock = threading.Lock()


_keeping = _Keeping()


@contextlib.contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Keep freed memory in this process, for work on a CPU in steps with equal memory needs.

    glibc would return it to the system after many operations, and the system would have to clear every page again: up
    to a sixth of the time. Peak memory hardly grows. Does nothing with other C libraries, and if memory has run out
    before. Under a limit on the address space (``ulimit -v`` or ``-d``), which counts fragmented
    free memory, all large blocks are returned instead.
    """
    if _addresses_are_limited():
        _set(RETURNED)
        _keeping.scarce = True
    if _keeping.scarce:
        yield
        return
    with _keeping.lock:
        _keeping.users += 1
        _set(KEPT)
    try:
        yield
    finally:
        with _keeping.lock:
            _keeping.users -= 1
            if not _keeping.users:
                _return_memory(USUAL if not _keeping.scarce else RETURNED)


def return_freed_memory() -> None:
    """Return freed memory to the system, from now on every freed block of a megabyte or more.

    glibc would keep them, in pieces too small for the tensors of the next attempt.
    """
    _keeping.scarce = True
    _return_memory(RETURNED)


def _addresses_are_limited() -> bool:
    if _glibc() is None:
        return False
    import resource  # missing on Windows

    kinds = resource.RLIMIT_AS, resource.RLIMIT_DATA
    return any(resource.getrlimit(kind)[0] != resource.RLIM_INFINITY for kind in kinds)


def _return_memory(thresholds: Mapping[int, int]) -> None:
    """Set the thresholds, and return memory that is already free to the system."""
    _set(thresholds)
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)


def _set(thresholds: Mapping[int, int]) -> None:
    if (libc := _glibc()) is not None:
        for name, value in thresholds.items():
            libc.mallopt(name, value)


@cache
def _glibc() -> ctypes.CDLL | None:
    """Return the C library of this process if it is glibc, else None."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
