"""Heun's method: the trapezoidal rule on the ODE, that of EDM (arXiv:2206.00364, algorithms 1 and 2) made stable.

Both ways take one more estimate at the end of a step and weigh it against the one at the beginning. With
``r = (sigma' / alpha') / (sigma / alpha)``, the part of the noise-to-signal ratio that is left after the step:

- EDM averages the slopes of ``noisy / alpha`` in ``sigma / alpha``; solved for the estimates, the later one has the
  weight ``1 / (2 r)``. Where a step takes away most of the noise this is large, and multiplies what is wrong with it.
- The same rule in ``alpha / sigma``, in which the slope of ``noisy / sigma`` is the clean estimate, gives both 1/2.

Both are of second order. The choice is made by the variable that changes less: ``alpha / sigma`` above the level where
image and noise are alike, ``sigma / alpha`` below.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from diffusion_lab.diffusion.level import Level
from diffusion_lab.samplers.base import Denoise, Draw, Estimate, ddim_update
from diffusion_lab.samplers.euler import ChurningSampler

if TYPE_CHECKING:
    from diffusion_lab.shapes import Images


LEAST_RATIO = 2.0**-23
"""Of ``r``: below it the weight of EDM's rule multiplies rounding errors of float32 beyond the pixel range."""


@dataclass(frozen=True)
class HeunSampler(ChurningSampler):
    """The trapezoidal rule: second order, two passes through the network a step (arXiv:2206.00364, algorithm 1)."""

    average: Literal["auto", "slopes"] = "auto"
    """What is averaged over a step: ``slopes`` is EDM's algorithm, which needs the short steps of ``karras`` or
    ``log_snr``; ``auto`` averages the clean estimates where ``sigma > alpha``, which is stable in every spacing."""

    def step(
        self, noisy: Images, history: Sequence[Estimate], next_level: Level[float], denoise: Denoise, draw_noise: Draw
    ) -> Images:
        level, clean = history[-1].level, history[-1].clean
        reached = ddim_update(noisy, clean, level, next_level)
        if next_level.sigma == 0:
            return reached
        averaged = clean + self._weight(level, next_level) * (denoise(reached, next_level) - clean)
        return ddim_update(noisy, averaged, level, next_level)

    def _weight(self, level: Level[float], next_level: Level[float]) -> float:
        """The weight of the estimate at the end of a step; the one at its beginning has the rest."""
        if level.alpha == 0 or (self.average == "auto" and level.sigma > level.alpha):
            return 0.5
        ratio = next_level.sigma * level.alpha / (next_level.alpha * level.sigma)
        return 0.5 / ratio if ratio > LEAST_RATIO else 0.5
