"""Spacings of the sampling steps: decreasing times in (0, 1]."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from diffusion_lab.diffusion.level import log_snr

if TYPE_CHECKING:
    from diffusion_lab.diffusion.schedules import Schedule

SpacingName = Literal["trailing", "leading", "linspace", "karras", "log_snr"]

MAX_LOG_SNR = 15.0
"""Substitute for an infinite log-SNR, at an end of the process without noise or without signal."""

FLOAT32_LOG_SNR = 48 * math.log(2)
"""Log-SNR from which it counts as infinite: in float32 a number vanishes when added to one 2^24 times as large."""

KARRAS_RHO = 7


def trailing(steps: int, schedule: Schedule) -> list[float]:
    """Return equally spaced times counted from the noisy end, which is always included (arXiv:2305.08891, table 2).

    In a discrete process each is rounded to the nearest step; halves to the even one.
    """
    return [schedule.nearest_time(1 - index / steps) for index in range(steps)]


def leading(steps: int, schedule: Schedule) -> list[float]:
    """Return equally spaced times counted from the least noisy one; the noisy end is not reached (that of DDIM, ibid.).

    In a discrete process of T steps the stride is ``floor(T / steps)``, so the remainder is missing at the noisy end.
    """
    stride = schedule.stride(steps)
    return [schedule.nearest_time(schedule.first_time + (steps - 1 - index) * stride) for index in range(steps)]


def linspace(steps: int, schedule: Schedule) -> list[float]:
    """Return equally spaced times that include both the noisy end and the least noisy time (ibid.)."""
    return [schedule.nearest_time(time) for time in _between(1.0, schedule.first_time, steps)]


def karras(steps: int, schedule: Schedule) -> list[float]:
    """Return times equally spaced in the seventh root of ``sigma / alpha`` (arXiv:2206.00364, equation 5)."""
    largest, smallest = (math.exp(-end / 2) ** (1 / KARRAS_RHO) for end in _ends(schedule))
    return [schedule.time(-2 * KARRAS_RHO * math.log(root)) for root in _between(largest, smallest, steps)]


def uniform_log_snr(steps: int, schedule: Schedule) -> list[float]:
    """Return times equally spaced in log-SNR (arXiv:2206.00927, section 3.4)."""
    return [schedule.time(end) for end in _between(*_ends(schedule), steps)]


def _ends(schedule: Schedule) -> tuple[float, float]:
    """Return the log-SNR of the noisy end and of the least noisy time; ±15 where infinite."""
    noisy, clean = (log_snr(schedule.level(time)) for time in (1.0, schedule.first_time))
    return (
        noisy if noisy > -FLOAT32_LOG_SNR else -MAX_LOG_SNR,
        clean if clean < FLOAT32_LOG_SNR else MAX_LOG_SNR,
    )


def _between(first: float, last: float, count: int) -> list[float]:
    return [first + (last - first) * index / max(count - 1, 1) for index in range(count)]


SPACINGS: dict[SpacingName, Callable[[int, Schedule], list[float]]] = {
    "trailing": trailing,
    "leading": leading,
    "linspace": linspace,
    "karras": karras,
    "log_snr": uniform_log_snr,
}
