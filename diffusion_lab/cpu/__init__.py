"""Optimizations for CPUs: convolutions with fewer multiplications, and the allocator of the C library."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from diffusion_lab.cpu.convolution import cache_filters
from diffusion_lab.cpu.malloc import keep_freed_memory

__all__ = ["cpu_optimizations"]


@contextlib.contextmanager
def cpu_optimizations(device: torch.device, fixed: nn.Module | None = None) -> Iterator[None]:
    """Work faster on a CPU inside the block, in steps with equal memory needs; no effect on another device.

    Args:
        device: Device of the work.
        fixed: Network whose weights do not change inside the block, so that what convolutions compute from them is
            kept; None in training.
    """
    if device.type != "cpu":
        yield
        return
    with keep_freed_memory(), cache_filters(fixed) if fixed is not None else contextlib.nullcontext():
        yield
