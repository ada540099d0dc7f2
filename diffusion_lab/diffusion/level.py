"""Noise level: the amounts of signal and noise in a noisy image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

Number = TypeVar("Number", float, "Tensor")


@dataclass(frozen=True, slots=True)
class Level(Generic[Number]):
    """``noisy = alpha * clean + sigma * noise`` at a time in [0, 1].

    Samplers use plain floats, one level for all images; training draws one level per image, tensors ``(N,)``. Both are
    float64, so that differences of nearly equal numbers keep their digits.
    """

    alpha: Number
    sigma: Number
    time: Number


def log_snr(level: Level[float]) -> float:
    """Return the log signal-to-noise ratio ``2 log(alpha / sigma)``; infinite for clean images and for pure noise."""
    if level.sigma == 0:
        return math.inf
    return 2 * math.log(level.alpha / level.sigma) if level.alpha > 0 else -math.inf
