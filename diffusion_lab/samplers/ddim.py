"""DDIM (arXiv:2010.02502)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Interval

from diffusion_lab.diffusion.level import Level
from diffusion_lab.samplers.base import Denoise, Draw, Estimate, Sampler, ddim_update, posterior_variance

if TYPE_CHECKING:
    from diffusion_lab.shapes import Images


@dataclass(frozen=True)
class DDIMSampler(Sampler):
    """DDIM: the ODE, or a mixture of it with fresh noise (arXiv:2010.02502, equation 12)."""

    order: ClassVar[int | None] = 1

    eta: Annotated[float, Interval(ge=0, le=1)] = 0.0
    """0 follows the ODE without noise; 1 adds the noise of DDPM with small variance."""

    def step(
        self, x: Images, history: Sequence[Estimate], next_level: Level[float], denoise: Denoise, draw_noise: Draw
    ) -> Images:
        level, clean = history[-1].level, history[-1].clean
        noise_variance = self.eta**2 * posterior_variance(level, next_level)
        if noise_variance == 0:
            return ddim_update(x, clean, level, next_level)
        ode_sigma = max(next_level.sigma**2 - noise_variance, 0.0) ** 0.5  # rounding may push it below zero
        ode_x = ddim_update(x, clean, level, Level(next_level.alpha, ode_sigma, next_level.time))
        next_x: Images = ode_x + noise_variance**0.5 * draw_noise()
        return next_x
