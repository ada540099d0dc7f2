"""Heun's method: the trapezoidal rule for the ODE, as in EDM (arXiv:2206.00364, algorithms 1 and 2) but stable.

Both variants take a second estimate at the end of a step and weight it against the one at its start. With
``r = (sigma' / alpha') / (sigma / alpha)``, the factor by which a step reduces the noise-to-signal ratio:

- EDM averages the slopes of ``noisy / alpha`` in ``sigma / alpha``; solved for the estimates, the later one has the
  weight ``1 / (2 r)``. Where a step removes most of the noise this is large and amplifies the error of the estimate.
- The same rule in ``alpha / sigma``, in which the slope of ``noisy / sigma`` is the clean estimate, gives both 1/2.

Both are second order. The variable that changes less is used: ``alpha / sigma`` where ``sigma > alpha``, and
``sigma / alpha`` elsewhere.
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


MIN_RATIO = 2.0**-23
"""Smallest ``r``: below it the weight of EDM's rule amplifies float32 rounding errors beyond the pixel range."""


@dataclass(frozen=True)
class HeunSampler(ChurningSampler):
    """Heun's method: second order, two network evaluations per step (arXiv:2206.00364, algorithm 1)."""

    order = 2

    average: Literal["auto", "slopes"] = "auto"
    """Quantity averaged over a step: ``slopes`` is EDM's algorithm, which needs the short steps of ``karras`` or
    ``log_snr``; ``auto`` averages the clean estimates where ``sigma > alpha``, which is stable in every spacing."""

    def step(
        self, x: Images, history: Sequence[Estimate], next_level: Level[float], denoise: Denoise, draw_noise: Draw
    ) -> Images:
        level, clean = history[-1].level, history[-1].clean
        next_x = ddim_update(x, clean, level, next_level)
        if next_level.sigma == 0:
            return next_x
        averaged = clean + self._weight(level, next_level) * (denoise(next_x, next_level) - clean)
        return ddim_update(x, averaged, level, next_level)

    def _weight(self, level: Level[float], next_level: Level[float]) -> float:
        """Return the weight of the estimate at the end of a step; the one at its start has the rest."""
        if level.alpha == 0 or (self.average == "auto" and level.sigma > level.alpha):
            return 0.5
        ratio = next_level.sigma * level.alpha / (next_level.alpha * level.sigma)
        return 0.5 / ratio if ratio > MIN_RATIO else 0.5
