"""Work in batches that fit into memory: where one does not, half of it is tried."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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

M_MMAP_THRESHOLD, LARGE_BLOCK = -3, 1 << 20  # as in malloc.h, and bytes


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the device or the host; torch tells the latter by a RuntimeError like any other."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in SAID_OF_NO_MEMORY)


def in_fitting_batches(
    work: Callable[[slice], Result], count: int, batch_size: int, setting: str
) -> Iterator[tuple[int, Result]]:
    """Do ``work`` on slices of ``count`` things; a batch that memory is too small for is halved, for all that follow.

    One warning tells the new size.

    Args:
        work: What is done with a slice. It is called again with a smaller one, so it must leave nothing behind.
        count: Number of things.
        batch_size: Most of them at a time.
        setting: The key to set the batch size by, for the warning.

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
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library than glibc has no such functions
            _let_glibc_give_back()


def _let_glibc_give_back() -> None:
    """Have freed blocks of a megabyte and more go back to the system.

    By default glibc keeps them for later, in pieces that the tensors of the next attempt do not fit into.
    """
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)
    libc.malloc_trim(0)
