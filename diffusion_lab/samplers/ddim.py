"""DDIM (arXiv:2010.02502)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Interval

from diffusion_lab.diffusion.level import Level
from diffusion_lab.samplers.base import Denoise, Draw, Estimate, Sampler, move, posterior_variance

if TYPE_CHECKING:
    from diffusion_lab.shapes import Images


@dataclass(frozen=True)
class DDIMSampler(Sampler):
    """Steps along the ODE, with a share of fresh noise (arXiv:2010.02502, equation 12)."""

    eta: Annotated[float, Interval(ge=0, le=1)] = 0.0
    """0 follows the ODE without noise; 1 adds the noise of DDPM with small variance."""

    def step(
        self, noisy: Images, past: Sequence[Estimate], there: Level[float], denoise: Denoise, draw: Draw
    ) -> Images:
        here, clean = past[-1].level, past[-1].clean
        fresh_variance = self.eta**2 * posterior_variance(here, there)
        if fresh_variance == 0:
            return move(noisy, clean, here, there)
        kept_sigma = max(there.sigma**2 - fresh_variance, 0.0) ** 0.5  # rounding may push it below zero
        kept = move(noisy, clean, here, Level(there.alpha, kept_sigma, there.time))
        moved: Images = kept + fresh_variance**0.5 * draw()
        return moved
