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

MOST_CHURN = math.sqrt(2) - 1


@dataclass(frozen=True)
class ChurningSampler(Sampler):
    """Before each step it may go back to a noisier level, with fresh noise (arXiv:2206.00364, algorithm 2)."""

    churn: Annotated[float, Ge(0)] = 0.0
    """Noise added over the whole walk (S_churn); 0 follows the ODE."""
    churn_from: Annotated[float, Ge(0)] = 0.0
    """Least ``sigma / alpha`` at which noise is added (S_tmin)."""
    churn_to: Annotated[float, Gt(0)] | None = None
    """Largest ``sigma / alpha`` at which noise is added (S_tmax); null for no limit. The noisiest level of the process
    is left as it is in any case: no network was trained beyond it."""
    churn_noise: Annotated[float, Gt(0)] = 1.0
    """Standard deviation of the noise added (S_noise)."""

    def levels(self, schedule: Schedule) -> list[Level[float]]:
        levels = super().levels(schedule)
        growth = 1 + min(self.churn / (len(levels) - 1), MOST_CHURN)
        if growth == 1:
            return levels
        stirred: list[Level[float]] = []
        for level in levels:
            stirred.append(level)
            if level.sigma > 0 and self.churn_from <= _ratio(level) <= (self.churn_to or math.inf):
                noisier = schedule.level(schedule.time(log_snr(level) - 2 * math.log(growth)))
                stirred += [noisier] if log_snr(noisier) < log_snr(level) else []
        return stirred

    def add_noise(self, noisy: Images, level: Level[float], next_level: Level[float], draw_noise: Draw) -> Images:
        return super().add_noise(noisy, level, next_level, lambda: self.churn_noise * draw_noise())


@dataclass(frozen=True)
class EulerSampler(ChurningSampler):
    """Steps along the tangent of the ODE in ``sigma / alpha``; without churn that is DDIM, without noise."""

    def step(
        self, noisy: Images, history: Sequence[Estimate], next_level: Level[float], denoise: Denoise, draw_noise: Draw
    ) -> Images:
        return ddim_update(noisy, history[-1].clean, history[-1].level, next_level)


@dataclass(frozen=True)
class EulerAncestralSampler(DDIMSampler):
    """Euler's step to less noise than asked for, then fresh noise up to it: DDIM with all the noise of DDPM."""

    eta: Annotated[float, Interval(ge=0, le=1)] = 1.0
    """Share of the fresh noise: 0 is Euler's method."""


def _ratio(level: Level[float]) -> float:
    return level.sigma / level.alpha if level.alpha > 0 else math.inf
