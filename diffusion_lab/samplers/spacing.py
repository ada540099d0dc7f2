"""Where on the way from noise to image a sampler stops: times in (0, 1], falling (arXiv:2305.08891, table 2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

SpacingName = Literal["trailing", "leading", "linspace"]


def trailing(steps: int, first_time: float) -> list[float]:
    """Equal strides counted from the noisy end, which is always one of the times."""
    return [1 - index / steps for index in range(steps)]


def leading(steps: int, first_time: float) -> list[float]:
    """Equal strides counted from ``first_time``, the least noisy time; the noisy end is not reached (DDIM's own)."""
    return [first_time + (steps - 1 - index) / steps for index in range(steps)]


def linspace(steps: int, first_time: float) -> list[float]:
    """Equal strides with both ends, the noisy end and ``first_time``, among the times."""
    if steps == 1:
        return [1.0]
    return [1 - (1 - first_time) * index / (steps - 1) for index in range(steps)]


SPACINGS: dict[SpacingName, Callable[[int, float], list[float]]] = {
    "trailing": trailing,
    "leading": leading,
    "linspace": linspace,
}
