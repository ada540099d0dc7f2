"""The loss by noise level: where a network errs, which the mean over all levels does not tell."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

EDGES = (0.0, 0.1, 1.0, 10.0, math.inf)

NOISE_BANDS = ("low", "medium", "high", "extreme")
"""Bands of the noise-to-signal ratio ``sigma / alpha``, between EDGES; it means the same in every noise process."""


def by_noise_band(losses: Tensor, ratio: Tensor) -> dict[str, tuple[Tensor, int]]:
    """The mean loss of each band and the number of images in it; bands without any are left out.

    Args:
        losses: Of each image ``(N,)``.
        ratio: Noise to signal, ``sigma / alpha``, at which they were taken, ``(N,)`` on the CPU.
    """
    found: dict[str, tuple[Tensor, int]] = {}
    for name, (low, high) in zip(NOISE_BANDS, pairwise(EDGES), strict=True):
        inside = torch.nonzero((ratio > low) & (ratio <= high)).flatten()
        if len(inside):
            found[name] = (losses[inside.to(losses.device)].mean(), len(inside))
    return found
