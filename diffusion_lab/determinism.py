"""The same numbers every time, on request."""

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
    """Seed the global generators of Python, NumPy and torch, that of the CPU and that of a device.

    ``torch.manual_seed`` also sees to all devices that the machine does not have; for each it notes where it was
    called from, which from deep inside a training loop takes it milliseconds.

    Args:
        seed: In [0, 2^63).
        device: The device whose generator is seeded, too.
    """
    _seed_host(seed)
    if device.type == "cuda" and device.index is not None:
        with torch.cuda.device(device):  # of the current GPU, which may be another one
            torch.cuda.manual_seed(seed)
    elif device.type != "cpu":
        getattr(torch, device.type).manual_seed(seed)


def _seed_host(seed: int) -> None:
    random.seed(seed)
    # Python and NumPy have the same generator: without a third word both would draw the same numbers.
    np.random.seed([seed & 0xFFFFFFFF, seed >> 32, 1])
    torch.default_generator.manual_seed(seed)


@contextlib.contextmanager
def host_generators_seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of the CPU inside the block; after it they are where they were.

    What the user's own code draws inside then depends on the seed alone, and changes no draw outside.
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
def deterministic(wanted: bool) -> Iterator[None]:
    """Let torch use deterministic algorithms alone, where ``wanted``; an operation that has none raises an error.

    What was set before is set again at the end, for the next job of the same process.
    """
    if not wanted:
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
