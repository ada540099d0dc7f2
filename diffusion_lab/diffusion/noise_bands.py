"""Loss by noise level, which shows where a network errs better than the mean over all levels."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from diffusion_lab.metric_names import NOISE_BANDS
from diffusion_lab.shapes import PerImage

EDGES = (0.0, 0.1, 1.0, 10.0, math.inf)
"""Limits of the noise-to-signal ratio of the bands."""


def by_noise_band(losses: PerImage, ratio: PerImage) -> dict[str, tuple[Tensor, int]]:
    """Return the mean loss and the number of images of each band; empty bands are omitted.

    Args:
        losses: Loss of each image ``(N,)``.
        ratio: Noise-to-signal ratio ``sigma / alpha`` of each image, ``(N,)`` on the CPU.
    """
    found: dict[str, tuple[Tensor, int]] = {}
    for name, (low, high) in zip(NOISE_BANDS, pairwise(EDGES), strict=True):
        inside = torch.nonzero((ratio > low) & (ratio <= high)).flatten()
        if len(inside):
            found[name] = (losses[inside.to(losses.device)].mean(), len(inside))
    return found
