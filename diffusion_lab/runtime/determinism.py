"""Seeding and deterministic algorithms."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator

import numpy as np
import torch

CUBLAS_VARIABLE = "CUBLAS_WORKSPACE_CONFIG"
CUBLAS_WORKSPACE = ":4096:8"  # the setting that NVIDIA documents as deterministic, without a loss of speed


def seed_default_generators(seed: int, device: torch.device) -> None:
    """Seed the global generators of Python, NumPy and torch, on the CPU and one device.

    ``torch.manual_seed`` also handles devices that the machine does not have; for each it records the stack trace,
    which takes milliseconds deep inside a training loop.

    Args:
        seed: Seed in [0, 2^63).
        device: Device whose generator is seeded as well.
    """
    _seed_host(seed)
    if device.type == "cuda" and device.index is not None:
        with torch.cuda.device(device):  # manual_seed applies to the current GPU
            torch.cuda.manual_seed(seed)
    elif device.type != "cpu":
        getattr(torch, device.type).manual_seed(seed)


def _seed_host(seed: int) -> None:
    random.seed(seed)
    # Python and NumPy use the same algorithm: without a third word both would draw the same numbers.
    np.random.seed([seed & 0xFFFFFFFF, seed >> 32, 1])
    torch.default_generator.manual_seed(seed)


@contextlib.contextmanager
def seed_host_generators(seed: int) -> Iterator[None]:
    """Seed the global generators of the CPU inside the block, and restore their states afterwards.

    Draws of user code inside the block then depend only on the seed, and do not affect draws outside.
    """
    before = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    _seed_host(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.default_generator.set_state(before[2])


@contextlib.contextmanager
def deterministic(enabled: bool) -> Iterator[None]:
    """Make torch use only deterministic algorithms if ``enabled``; an operation without one raises an error.

    The previous settings are restored at the end, for the next job of the same process.
    """
    if not enabled:
        yield
        return
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark
    workspace = os.environ.get(CUBLAS_VARIABLE)
    os.environ.setdefault(CUBLAS_VARIABLE, CUBLAS_WORKSPACE)  # read when CUDA is first used
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        cudnn.deterministic, cudnn.benchmark = before[1:]
        if workspace is None:
            os.environ.pop(CUBLAS_VARIABLE, None)
