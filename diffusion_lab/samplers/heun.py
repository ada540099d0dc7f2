"""Heun's method (EDM, arXiv:2206.00364, algorithms 1 and 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffusion_lab.diffusion.level import Level
from diffusion_lab.samplers.base import Denoise, Draw, Estimate, move
from diffusion_lab.samplers.euler import ChurningSampler

if TYPE_CHECKING:
    from diffusion_lab.shapes import Images


@dataclass(frozen=True)
class HeunSampler(ChurningSampler):
    """The mean of the slopes at both ends of a step: second order, two passes through the network a step.

    The slope of the ODE in ``sigma / alpha`` is the noise that the estimate leaves.
    """

    def step(
        self, noisy: Images, past: Sequence[Estimate], there: Level[float], denoise: Denoise, draw: Draw
    ) -> Images:
        begin = past[-1]
        here = begin.level
        reached = move(noisy, begin.clean, here, there)
        if there.sigma == 0:
            return reached
        end = Estimate(there, denoise(reached, there), reached)
        if here.alpha == 0:  # sigma / alpha is infinite: the mean of the estimates instead, also of second order
            return move(noisy, (begin.clean + end.clean) / 2, here, there)
        span = there.sigma - there.alpha * here.sigma / here.alpha
        return there.alpha / here.alpha * noisy + span * (begin.noise + end.noise) / 2
