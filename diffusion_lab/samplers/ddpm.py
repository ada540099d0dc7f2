"""DDPM's ancestral sampling (arXiv:2006.11239, algorithm 2), over all steps or a part of them (arXiv:2102.09672)."""

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
    signal_kept,
)

if TYPE_CHECKING:
    from diffusion_lab.shapes import Images


@dataclass(frozen=True)
class DDPMSampler(Sampler):
    """Draws each next image from the posterior given the clean estimate (arXiv:2006.11239, equations 6 and 7)."""

    steps: Annotated[int, Ge(1)] | None = None
    variance: Literal["small", "large"] = "small"
    """Variance of the noise added in a step: ``small`` is the posterior's (best with few steps), ``large`` is the
    forward step's beta (arXiv:2006.11239, section 3.2)."""

    def step(
        self, noisy: Images, past: Sequence[Estimate], there: Level[float], denoise: Denoise, draw: Draw
    ) -> Images:
        here, clean = past[-1].level, past[-1].clean
        beta = added_variance(here, there)
        noisy_share = signal_kept(here, there) * there.sigma**2 / here.sigma**2
        clean_share = there.alpha * beta / here.sigma**2
        mean = noisy_share * noisy + clean_share * clean
        if there.sigma == 0:
            return mean  # algorithm 2, line 3: no noise in the last step
        variance = beta if self.variance == "large" else posterior_variance(here, there)
        moved: Images = mean + variance**0.5 * draw()
        return moved
