"""A problem whose answer is known, to measure samplers by: points with a normal distribution.

Their denoiser is a regression line and their ODE has a closed form. With that denoiser every step of every sampler is
affine, so a walk is followed as an affine function of all the noise in it: no sampling, no statistical error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from diffusion_lab.diffusion.level import Level
from diffusion_lab.diffusion.schedules import Schedule
from diffusion_lab.samplers import Sampler


def _numbers(*values: float) -> Callable[[], Tensor]:
    return lambda: torch.tensor(values, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class GaussianData:
    """Points of D coordinates, distributed as N(mean, covariance), under the noise of a schedule.

    Points are followed as matrices ``(D, 1 + K)``: a constant, then the response to each of K independent standard
    normal numbers. So their mean is the first column, and the others times their transpose are their covariance.

    Args:
        schedule: The noise process.
        mean: ``(D,)``, float64.
        covariance: ``(D, D)``, float64, symmetric and positive definite.
    """

    schedule: Schedule
    mean: Tensor = field(default_factory=_numbers(0.3))
    covariance: Tensor = field(default_factory=lambda: _numbers(0.25)().diag())

    @cached_property
    def _axes(self) -> tuple[Tensor, Tensor]:
        """Variance along each principal axis ``(D,)``, and the axes as columns ``(D, D)``."""
        variances, axes = torch.linalg.eigh(self.covariance)
        return variances, axes

    def moments(self, level: Level[float]) -> tuple[Tensor, Tensor]:
        """Mean ``(D,)`` and covariance ``(D, D)`` of the noisy points at a level."""
        return level.alpha * self.mean, level.alpha**2 * self.covariance + level.sigma**2 * torch.eye(len(self.mean))

    def denoise(self, noisy: Tensor, level: Level[float]) -> Tensor:
        """The exact denoiser, E[clean | noisy]: its regression on the noisy points."""
        variances, _ = self._axes
        return self._stretched(noisy, level, 1.0, level.alpha * variances / self._variances(level))

    def follow(self, noisy: Tensor, here: Level[float], there: Level[float]) -> Tensor:
        """The ODE's exact solution: along each axis as many standard deviations from the mean as before.

        With v the variance of clean points, the ODE in ``s = sigma / alpha`` (arXiv:2206.00364, equation 1) is
        ``dx/ds = s (x - mean) / (v + s²)``, solved by ``x - mean ∝ (v + s²)^½``.
        """
        return self._stretched(noisy, here, there.alpha, (self._variances(there) / self._variances(here)).sqrt())

    def trajectory(self, sampler: Sampler, levels: Sequence[Level[float]]) -> list[Tensor]:
        """The points at every level after the first. What is clipped is no longer affine, so nothing is."""
        size = len(self.mean)
        noises = iter(torch.eye(size * len(levels), dtype=torch.float64).split(size))

        def draw() -> Tensor:  # a step draws once at most, so there is one for each level
            return torch.nn.functional.pad(next(noises), (1, 0))

        unclipped = replace(sampler, clip=False, dynamic_threshold=None)
        return list(unclipped.trajectory(self.denoise, draw(), levels, draw))

    def end(self, sampler: Sampler) -> Tensor:
        """The points that a sampler ends with."""
        return self.trajectory(sampler, sampler.levels(self.schedule))[-1]

    def ode_error(self, sampler: Sampler) -> float:
        """Root mean square of what a sampler's ends lack to those of the ODE, from the same noise.

        The last step of every method, to the clean image, takes the denoiser's word at the least noisy level. So here
        does the ODE: what is measured are the steps before.
        """
        levels = sampler.levels(self.schedule)
        start, last = levels[0], levels[-2]
        size = len(self.mean)
        noise = torch.nn.functional.pad(torch.eye(size, size * len(levels), dtype=torch.float64), (1, 0))
        noise = (start.alpha**2 + start.sigma**2) ** 0.5 * noise
        exact = self.denoise(self.follow(noise, start, last), last)
        error: float = (self.trajectory(sampler, levels)[-1] - exact).norm().item()
        return error

    def _variances(self, level: Level[float]) -> Tensor:
        return level.alpha**2 * self._axes[0] + level.sigma**2

    def _stretched(self, noisy: Tensor, here: Level[float], alpha: float, factors: Tensor) -> Tensor:
        """Deviations from the mean at ``here`` times a factor along each axis, about the mean of another ``alpha``."""
        _, axes = self._axes
        deviations = noisy.clone()
        deviations[:, 0] -= here.alpha * self.mean
        stretched = (axes * factors) @ (axes.T @ deviations)
        stretched[:, 0] += alpha * self.mean
        return stretched


def moments_of(points: Tensor) -> tuple[Tensor, Tensor]:
    """Mean ``(D,)`` and covariance ``(D, D)`` of points given as responses to noise ``(D, 1 + K)``."""
    return points[:, 0], points[:, 1:] @ points[:, 1:].T
