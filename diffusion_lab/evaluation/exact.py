"""Sampling problem with an exact solution, to evaluate samplers: normally distributed data.

The exact denoiser is affine and the ODE has a closed-form solution. With that denoiser, every step of every sampler is
affine, so a trajectory is computed as an affine function of all its noise: no sampling, no statistical error.
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
    """Points in D dimensions, distributed as N(mean, covariance), with the noise of a schedule.

    Points are represented by matrices ``(D, 1 + K)``: a constant, and the coefficients of K independent standard
    normal variables. Their mean is the first column, and the other columns times their transpose are their covariance.

    Args:
        schedule: Noise schedule.
        mean: ``(D,)``, float64.
        covariance: ``(D, D)``, float64, symmetric and positive definite.
    """

    schedule: Schedule
    mean: Tensor = field(default_factory=_numbers(0.3))
    covariance: Tensor = field(default_factory=lambda: _numbers(0.25)().diag())

    @cached_property
    def _axes(self) -> tuple[Tensor, Tensor]:
        """Variances along the principal axes ``(D,)``, and the axes as columns ``(D, D)``."""
        variances, axes = torch.linalg.eigh(self.covariance)
        return variances, axes

    def moments(self, level: Level[float]) -> tuple[Tensor, Tensor]:
        """Return mean ``(D,)`` and covariance ``(D, D)`` of the noisy points at a level."""
        return level.alpha * self.mean, level.alpha**2 * self.covariance + level.sigma**2 * torch.eye(len(self.mean))

    def denoise(self, noisy: Tensor, level: Level[float]) -> Tensor:
        """Return the exact denoised points, E[clean | noisy]."""
        variances, _ = self._axes
        return self._scale_deviations(noisy, level, 1.0, level.alpha * variances / self._variances(level))

    def solve_ode(self, noisy: Tensor, start: Level[float], end: Level[float]) -> Tensor:
        """Return the exact solution of the ODE at another level.

        The number of standard deviations from the mean along each axis is preserved. With v the variance of clean
        points, the ODE in ``s = sigma / alpha`` (arXiv:2206.00364, equation 1) is ``dx/ds = s (x - mean) / (v + s²)``,
        solved by ``x - mean ∝ (v + s²)^½``.
        """
        factors = (self._variances(end) / self._variances(start)).sqrt()
        return self._scale_deviations(noisy, start, end.alpha, factors)

    def trajectory(self, sampler: Sampler, levels: Sequence[Level[float]]) -> list[Tensor]:
        """Return the points at every level after the first, without clipping, which is not affine."""
        size = len(self.mean)
        noises = iter(torch.eye(size * len(levels), dtype=torch.float64).split(size))

        def draw() -> Tensor:  # a step draws noise at most once, so there is one for each level
            return torch.nn.functional.pad(next(noises), (1, 0))

        unclipped = replace(sampler, clip=False, dynamic_threshold=None)
        return list(unclipped.trajectory(self.denoise, draw(), levels, draw))

    def sample(self, sampler: Sampler) -> Tensor:
        """Return the final points of a sampler."""
        return self.trajectory(sampler, sampler.levels(self.schedule))[-1]

    def ode_error(self, sampler: Sampler) -> float:
        """Return the root-mean-square difference between a sampler's final points and those of the ODE, for one noise.

        The last step of every sampler, to the clean image, is the denoiser's estimate at the least noisy level. The
        same step ends the exact solution, so that the error is that of the earlier steps.
        """
        levels = sampler.levels(self.schedule)
        start, last = levels[0], levels[-2]
        size = len(self.mean)
        noise = torch.nn.functional.pad(torch.eye(size, size * len(levels), dtype=torch.float64), (1, 0))
        noise = (start.alpha**2 + start.sigma**2) ** 0.5 * noise
        exact = self.denoise(self.solve_ode(noise, start, last), last)
        error: float = (self.trajectory(sampler, levels)[-1] - exact).norm().item()
        return error

    def _variances(self, level: Level[float]) -> Tensor:
        return level.alpha**2 * self._axes[0] + level.sigma**2

    def _scale_deviations(self, noisy: Tensor, level: Level[float], alpha: float, factors: Tensor) -> Tensor:
        """Scale the deviations from the mean at a level along each axis, and add the mean at another ``alpha``."""
        _, axes = self._axes
        deviations = noisy.clone()
        deviations[:, 0] -= level.alpha * self.mean
        scaled = (axes * factors) @ (axes.T @ deviations)
        scaled[:, 0] += alpha * self.mean
        return scaled


def moments_of(points: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean ``(D,)`` and covariance ``(D, D)`` of points as affine functions of noise ``(D, 1 + K)``."""
    return points[:, 0], points[:, 1:] @ points[:, 1:].T
