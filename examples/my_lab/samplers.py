from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffusion_lab.diffusion.level import Level
from diffusion_lab.samplers.base import Denoise, Draw, Estimate, Sampler, ddim_update

if TYPE_CHECKING:
    from diffusion_lab.shapes import Images


@dataclass(frozen=True)
class TrapezoidSampler(Sampler):
    """Averages the estimates at both ends of a step: second order, two network evaluations per step."""

    order = 2  # twice as many steps, a quarter of the error

    def step(
        self, x: Images, history: Sequence[Estimate], next_level: Level[float], denoise: Denoise, draw_noise: Draw
    ) -> Images:
        level, clean = history[-1].level, history[-1].clean
        next_x = ddim_update(x, clean, level, next_level)
        if next_level.sigma == 0:  # the last step ends at the clean image
            return next_x
        return ddim_update(x, (clean + denoise(next_x, next_level)) / 2, level, next_level)
