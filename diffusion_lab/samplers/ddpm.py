"""Ancestral sampling of DDPM (arXiv:2006.11239, algorithm 2), over all steps or a subset (arXiv:2102.09672)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge

from diffusion_lab.diffusion.level import Level
from diffusion_lab.samplers.base import (
    Denoise,
    Draw,
    Estimate,
    Sampler,
    added_variance,
    posterior_variance,
    signal_ratio,
)

if TYPE_CHECKING:
    from diffusion_lab.shapes import Images


@dataclass(frozen=True)
class DDPMSampler(Sampler):
    """DDPM: each step draws from the posterior given the clean estimate (arXiv:2006.11239, equations 6 and 7)."""

    steps: Annotated[int, Ge(1)] | None = None
    variance: Literal["small", "large"] = "small"
    """Variance of the noise added in a step: ``small`` is the posterior's (best with few steps), ``large`` is the
    forward step's beta (arXiv:2006.11239, section 3.2)."""

    def step(
        self, x: Images, history: Sequence[Estimate], next_level: Level[float], denoise: Denoise, draw_noise: Draw
    ) -> Images:
        level, clean = history[-1].level, history[-1].clean
        beta = added_variance(level, next_level)
        noisy_share = signal_ratio(level, next_level) * next_level.sigma**2 / level.sigma**2
        clean_share = next_level.alpha * beta / level.sigma**2
        mean = noisy_share * x + clean_share * clean
        if next_level.sigma == 0:
            return mean  # algorithm 2, line 3: no noise in the last step
        variance = beta if self.variance == "large" else posterior_variance(level, next_level)
        next_x: Images = mean + variance**0.5 * draw_noise()
        return next_x
