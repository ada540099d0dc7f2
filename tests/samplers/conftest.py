"""A problem whose answer is known: data distributed as N(mean, spread²) have an exact denoiser and an exact ODE."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from diffusion_lab.diffusion.level import Level
from diffusion_lab.diffusion.schedules import BETA_SCHEDULES, DiscreteSchedule
from diffusion_lab.samplers import Sampler


@dataclass(frozen=True)
class GaussianData:
    """Pixels, each distributed as N(mean, spread²), under the noise of a schedule."""

    schedule: DiscreteSchedule
    mean: float = 0.3
    spread: float = 0.5

    def moments(self, level: Level[float]) -> tuple[float, float]:
        """Mean and standard deviation of the noisy pixels at a level."""
        return level.alpha * self.mean, (level.alpha**2 * self.spread**2 + level.sigma**2) ** 0.5

    def ode_end(self, noise: float, start: Level[float]) -> float:
        """Where the ODE carries noise of a level: to the same number of standard deviations from the mean."""
        mean, deviation = self.moments(start)
        return self.mean + self.spread * (noise - mean) / deviation

    def response(self, sampler: Sampler) -> Tensor:
        """The end of a walk with the exact denoiser as an affine function of all its noise: no sampling, no error.

        That denoiser, E[clean | noisy], is a regression line, and steps are affine; so one pixel is followed as its
        coefficients: of one, of the starting noise, and of each fresh noise. Its mean is the first of them, its
        variance the sum of the others' squares.
        """
        levels = sampler.levels(self.schedule)
        units = iter(torch.eye(len(levels) + 1, dtype=torch.float64))
        one = next(units)

        def denoise(noisy: Tensor, level: Level[float]) -> Tensor:
            mean, deviation = self.moments(level)
            return self.mean * one + level.alpha * self.spread**2 / deviation**2 * (noisy - mean * one)

        *_, end = sampler.walk(denoise, next(units), levels, lambda: next(units))
        return end


@pytest.fixture(params=sorted(BETA_SCHEDULES))
def data(request: pytest.FixtureRequest) -> GaussianData:
    return GaussianData(DiscreteSchedule(BETA_SCHEDULES[request.param](1000, 1e-4, 0.02)))
