"""Memory of the host: kept from one step for the next, and batches halved where it is too small for them."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch

from diffusion_lab.config.faults import ConfigWarning

Result = TypeVar("Result")

SAID_OF_NO_MEMORY = (
    "out of memory",  # CUDA and MPS
    "can't allocate memory",  # torch's allocator for the CPU on Linux
    "not enough memory",  # and on Windows
    "bad_alloc",  # C++
    "could not create a primitive",  # oneDNN, which does not tell why
    "could not create a memory object",
    "could not execute a primitive",
)
"""How the libraries below torch say it."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""As in malloc.h: free bytes at the end of the heap, and those of a block, from which on they go back to the system."""

KEPT = {M_TRIM_THRESHOLD: -1, M_MMAP_THRESHOLD: 2**30}  # -1 is never
USUAL = {M_TRIM_THRESHOLD: 2**26, M_MMAP_THRESHOLD: 2**25}
"""Where glibc's own adapting, which ends as soon as they are set, would bring them in time."""
RETURNED = {M_TRIM_THRESHOLD: 2**20, M_MMAP_THRESHOLD: 2**20}


class _Keeping:
    """How many want freed memory kept, and whether there was ever too little."""

    def __init__(self) -> None:
        self.users, self.scarce = 0, False
        self.lock = threading.Lock()


_keeping = _Keeping()


@contextlib.contextmanager
def freed_memory_kept(device: torch.device) -> Iterator[None]:
    """Keep what is freed with this process, for work on a CPU in steps that each need as much as the one before.

    glibc would give it back after many an operation, and the system would have to clear every page of it for the next:
    up to a sixth of the time. The most memory that is held grows hardly. Does nothing on other devices, with other C
    libraries, and where memory has run out before. Under a limit on addresses (``ulimit -v`` or ``-d``), against which
    what is free between blocks in use counts for good, it has all large blocks given back instead.
    """
    if device.type == "cpu" and _addresses_are_limited():
        _set(RETURNED)
        _keeping.scarce = True
    if device.type != "cpu" or _keeping.scarce:
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
                _give_back(USUAL if not _keeping.scarce else RETURNED)


def peak_bytes() -> int:
    """The most memory that this process has held."""
    status = Path("/proc/self/status")  # what getrusage tells on Linux is no less than what the parent held
    if status.exists() and (told := status.read_text().partition("VmHWM:")[2].split()):
        return int(told[0]) * 2**10
    import resource  # which Windows lacks, where sampling needs the rest of this module

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 2**10


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the device or the host; torch tells the latter by a RuntimeError like any other."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in SAID_OF_NO_MEMORY)


@contextlib.contextmanager
def explaining_too_little_memory(work: str, advice: str) -> Iterator[None]:
    """Turn what the libraries below say of too little memory into one error that says what to do.

    Args:
        work: What memory is too small for.
        advice: What to do.

    Raises:
        MemoryError: Memory ran out, on the device or the host.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        said = str(error).strip().partition("\n")[0]
        if not is_out_of_memory(error) or (isinstance(error, MemoryError) and said):  # the latter is explained already
            raise
        raise MemoryError(
            f"memory is too small for {work}: {advice} (torch says: {said or type(error).__name__})"
        ) from error


def in_fitting_batches(
    work: Callable[[slice], Result], count: int, batch_size: int, setting: str
) -> Iterator[tuple[int, Result]]:
    """Do ``work`` on slices of ``count`` things; a batch that memory is too small for is halved, for all that follow.

    One warning tells the new size.

    Args:
        work: What is done with a slice. It is called again with a smaller one, so it must leave nothing behind.
        count: Number of things.
        batch_size: Most of them at a time.
        setting: What the warning calls the batch size: the key or argument that sets it, where there is one.

    Yields:
        The first number of each slice, and what came of it.

    Raises:
        MemoryError: There is no room for one alone.
    """
    start, fits = 0, batch_size
    while start < count:
        part, asked = slice(start, min(start + fits, count)), fits
        while isinstance(result := _attempt(work, part), _NoMemory):
            fits = (part.stop - part.start) // 2
            if not fits:
                raise MemoryError(
                    "memory is too small for one image at a time: free some, or take a larger machine "
                    f"(torch says: {result.said})"
                )
            _release()
            part = slice(start, start + fits)
        if fits < asked:
            warnings.warn(
                f"{setting} = {batch_size} does not fit into memory: {fits} images at a time from here on; they are "
                "the same images",
                ConfigWarning,
                stacklevel=2,
            )
        yield start, result
        start = part.stop


@dataclass(frozen=True)
class _NoMemory:
    """What an attempt without enough memory comes to, in words alone: its traceback would keep its tensors."""

    said: str


def _attempt(work: Callable[[slice], Result], part: slice) -> Result | _NoMemory:
    try:
        return work(part)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return _NoMemory(str(error).strip().partition("\n")[0] or type(error).__name__)


def _release() -> None:
    """Give back what a failed attempt held."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    # Freed blocks of a megabyte and more shall go back to the system from now on. glibc keeps them for later, in pieces
    # that the tensors of the next attempt do not fit into.
    _keeping.scarce = True
    _give_back(RETURNED)


def _addresses_are_limited() -> bool:
    if _glibc() is None:
        return False
    import resource  # which Windows lacks

    kinds = resource.RLIMIT_AS, resource.RLIMIT_DATA
    return any(resource.getrlimit(kind)[0] != resource.RLIM_INFINITY for kind in kinds)


def _give_back(thresholds: Mapping[int, int]) -> None:
    """Set them, and return what is free already."""
    _set(thresholds)
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)


def _set(thresholds: Mapping[int, int]) -> None:
    if (libc := _glibc()) is not None:
        for name, value in thresholds.items():
            libc.mallopt(name, value)


@cache
def _glibc() -> ctypes.CDLL | None:
    """The C library of this process, where it is one that can be told."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
