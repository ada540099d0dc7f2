"""Memory that runs out: recognized, explained, and batches halved that do not fit."""

from __future__ import annotations

import contextlib
import gc
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from diffusion_lab.cpu.malloc import return_freed_memory
from diffusion_lab.faults import ConfigWarning

Result = TypeVar("Result")

OOM_MESSAGES = (
    "out of memory",  # CUDA and MPS
    "can't allocate memory",  # torch's allocator for the CPU on Linux
    "not enough memory",  # and on Windows
    "bad_alloc",  # C++
    "could not create a primitive",  # oneDNN, which does not say why
    "could not create a memory object",
    "could not execute a primitive",
)
"""Parts of the messages of libraries below torch when memory runs out."""


def peak_bytes() -> int:
    """Return the peak memory of this process in bytes."""
    status = Path("/proc/self/status")  # on Linux, getrusage reports at least the parent's peak
    if status.exists() and (peak_kib := status.read_text().partition("VmHWM:")[2].split()):
        return int(peak_kib[0]) * 2**10
    import resource  # missing on Windows, where sampling needs the rest of this module

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 2**10


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out, on the device or the host; for the host torch raises a generic RuntimeError."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in OOM_MESSAGES)


@contextlib.contextmanager
def explain_out_of_memory(work: str, advice: str) -> Iterator[None]:
    """Turn out-of-memory errors of libraries into one error with advice.

    Args:
        work: Description of the work that memory is too small for.
        advice: What to do.

    Raises:
        MemoryError: Memory ran out, on the device or the host.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        message = str(error).strip().partition("\n")[0]
        if not is_out_of_memory(error) or (isinstance(error, MemoryError) and message):  # already explained
            raise
        raise MemoryError(
            f"memory is too small for {work}: {advice} (torch says: {message or type(error).__name__})"
        ) from error


def batches_that_fit(
    work: Callable[[slice], Result], count: int, batch_size: int, setting: str
) -> Iterator[tuple[int, Result]]:
    """Call ``work`` on slices of ``count`` items; if memory is too small, the batch size is halved for the rest.

    One warning names the new size.

    Args:
        work: Called with a slice. It may be called again with a smaller one, so it must have no side effects.
        count: Number of items.
        batch_size: Maximum items per slice.
        setting: Name of the batch size in the warning: the key or argument that sets it, if there is one.

    Yields:
        The start of each slice, and the result.

    Raises:
        MemoryError: Memory is too small for a single item.
    """
    start, fits = 0, batch_size
    while start < count:
        part, requested = slice(start, min(start + fits, count)), fits
        while isinstance(result := _attempt(work, part), _NoMemory):
            fits = (part.stop - part.start) // 2
            if not fits:
                raise MemoryError(
                    "memory is too small for one image at a time: free some, or take a larger machine "
                    f"(torch says: {result.message})"
                )
            _release()
            part = slice(start, start + fits)
        if fits < requested:
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
    """Result of an attempt that ran out of memory; only the message, since the traceback would keep tensors alive."""

    message: str


def _attempt(work: Callable[[slice], Result], part: slice) -> Result | _NoMemory:
    try:
        return work(part)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return _NoMemory(str(error).strip().partition("\n")[0] or type(error).__name__)


def _release() -> None:
    """Release the memory of a failed attempt."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    return_freed_memory()
