"""Euler's method on the ODE of EDM (arXiv:2206.00364), with and without fresh noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt, Interval

from diffusion_lab.diffusion.level import Level, log_snr
from diffusion_lab.samplers.base import Denoise, Draw, Estimate, Sampler, ddim_update
from diffusion_lab.samplers.ddim import DDIMSampler

if TYPE_CHECKING:
    from diffusion_lab.diffusion.schedules import Schedule
    from diffusion_lab.shapes import Images

MAX_CHURN = math.sqrt(2) - 1


@dataclass(frozen=True)
class ChurningSampler(Sampler):
    """Base class of methods that may return to a noisier level before each step (arXiv:2206.00364, algorithm 2)."""

    churn: Annotated[float, Ge(0)] = 0.0
    """Noise added over the whole trajectory (S_churn); 0 follows the ODE."""
    churn_from: Annotated[float, Ge(0)] = 0.0
    """Least ``sigma / alpha`` at which noise is added (S_tmin)."""
    churn_to: Annotated[float, Gt(0)] | None = None
    """Largest ``sigma / alpha`` at which noise is added (S_tmax); null for no limit. The noisiest level of the process
    is left as it is in any case: no network was trained beyond it."""
    churn_noise: Annotated[float, Gt(0)] = 1.0
    """Standard deviation of the noise added (S_noise)."""

    def levels(self, schedule: Schedule) -> list[Level[float]]:
        levels = super().levels(schedule)
        growth = 1 + min(self.churn / (len(levels) - 1), MAX_CHURN)
        if growth == 1:
            return levels
        levels_with_churn: list[Level[float]] = []
        for level in levels:
            levels_with_churn.append(level)
            if level.sigma > 0 and self.churn_from <= _ratio(level) <= (self.churn_to or math.inf):
                noisier = schedule.level(schedule.time(log_snr(level) - 2 * math.log(growth)))
                levels_with_churn += [noisier] if log_snr(noisier) < log_snr(level) else []
        return levels_with_churn

    def add_noise(self, x: Images, level: Level[float], next_level: Level[float], draw_noise: Draw) -> Images:
        return super().add_noise(x, level, next_level, lambda: self.churn_noise * draw_noise())


@dataclass(frozen=True)
class EulerSampler(ChurningSampler):
    """Euler's method for the ODE in ``sigma / alpha``; without churn it is deterministic DDIM."""

    order = 1

    def step(
        self, x: Images, history: Sequence[Estimate], next_level: Level[float], denoise: Denoise, draw_noise: Draw
    ) -> Images:
        return ddim_update(x, history[-1].clean, history[-1].level, next_level)


@dataclass(frozen=True)
class EulerAncestralSampler(DDIMSampler):
    """Euler steps to less noise than the next level has, then fresh noise up to it: DDIM with the noise of DDPM."""

    order = None

    eta: Annotated[float, Interval(ge=0, le=1)] = 1.0
    """Share of the fresh noise: 0 is Euler's method."""


def _ratio(level: Level[float]) -> float:
    return level.sigma / level.alpha if level.alpha > 0 else math.inf
