"""Work in batches that fit into memory: where one does not, half of it is tried."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from diffusion_lab.config.faults import ConfigWarning

Result = TypeVar("Result")

SAID_OF_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc", "bad allocation")
"""How the libraries below torch say it: CUDA and MPS, the CPU allocator of Linux and of Windows, C++."""


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
        while (result := _unless_out_of_memory(work, part)) is None:
            fits = (part.stop - part.start) // 2
            if not fits:
                raise MemoryError("memory is too small for one image at a time: free some, or take a larger machine")
            _release()
            part = slice(start, start + fits)
        if fits < asked:
            warnings.warn(
                f"{setting} = {batch_size} does not fit into memory: {fits} images at a time from here on; they are "
                "the same images",
                ConfigWarning,
                stacklevel=2,
            )
        yield start, result[0]
        start = part.stop


def _unless_out_of_memory(work: Callable[[slice], Result], part: slice) -> tuple[Result] | None:
    try:
        return (work(part),)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    return None  # outside the handler, where the traceback no longer keeps the tensors of the failed attempt


def _release() -> None:
    """Give back what a failed attempt held."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
