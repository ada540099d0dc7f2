"""DPM-Solver++ (arXiv:2211.01095): multistep methods in the clean estimate, for the ODE and the SDE.

With ``lambda = log(alpha / sigma)`` the linear part of the ODE is solved exactly; the clean estimate is extrapolated
from earlier ones as a polynomial in lambda.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Interval

from diffusion_lab.diffusion.level import Level, log_snr
from diffusion_lab.samplers.base import Denoise, Draw, Estimate, Sampler, ddim_update

if TYPE_CHECKING:
    from diffusion_lab.shapes import Images


@dataclass(frozen=True)
class DPMSolverPP2MSampler(Sampler):
    """DPM-Solver++(2M): second order, one network evaluation per step (arXiv:2211.01095, algorithm 2)."""

    order = 2

    history_size = 2

    def step(
        self, x: Images, history: Sequence[Estimate], next_level: Level[float], denoise: Denoise, draw_noise: Draw
    ) -> Images:
        return ddim_update(x, extrapolate(history, next_level), history[-1].level, next_level)


@dataclass(frozen=True)
class DPMSolverPP2MSDESampler(Sampler):
    """DPM-Solver++(2M) for the SDE: fresh noise corrects earlier errors (arXiv:2211.01095, section 5)."""

    eta: Annotated[float, Interval(ge=0, le=1)] = 1.0
    """Share of the fresh noise: 0 is the method on the ODE."""

    history_size = 2

    def step(
        self, x: Images, history: Sequence[Estimate], next_level: Level[float], denoise: Denoise, draw_noise: Draw
    ) -> Images:
        level = history[-1].level
        shrink = math.exp(-self.eta * half_log_snr_difference(level, next_level)) if self.eta > 0 else 1.0
        ode_level = Level(next_level.alpha, next_level.sigma * shrink, next_level.time)
        next_x = ddim_update(x, extrapolate(history, next_level), level, ode_level)
        noise_scale = next_level.sigma * max(1 - shrink**2, 0.0) ** 0.5
        return next_x + noise_scale * draw_noise() if noise_scale > 0 else next_x


@dataclass(frozen=True)
class DPMSolverPP3MSampler(Sampler):
    """DPM-Solver++(3M): third order, one network evaluation per step and a second one in the first (arXiv:2211.01095).

    The clean estimate is a parabola through its last three values, integrated exactly. (The published code has half of
    its second derivative, which makes the method second order.) A first step of order one would limit it to two.
    """

    order = 3

    history_size = 3

    def step(
        self, x: Images, history: Sequence[Estimate], next_level: Level[float], denoise: Denoise, draw_noise: Draw
    ) -> Images:
        newest = history[-1]
        level, clean = newest.level, newest.clean
        next_x = ddim_update(x, clean, level, next_level)
        if next_level.sigma == 0 or level.alpha == 0:
            return next_x
        h = half_log_snr_difference(level, next_level)
        curve: Images | float = 0.0
        match [estimate for estimate in history[:-1] if estimate.level.alpha > 0]:
            case []:
                slope = (denoise(next_x, next_level) - clean) / h
            case [second]:
                slope = _slope(second, newest)
            case [third, second]:
                span = half_log_snr_difference(third.level, level)
                curve = (_slope(second, newest) - _slope(third, second)) / span  # half the second derivative
                slope = _slope(second, newest) + curve * half_log_snr_difference(second.level, level)
        # integrals over the step of exp(lambda) times lambda and lambda², lambda counted from its start
        of_slope = h + math.expm1(-h)
        of_curve = h**2 - 2 * of_slope
        return next_x + next_level.alpha * (of_slope * slope + of_curve * curve)


def _slope(earlier: Estimate, later: Estimate) -> Images:
    slope: Images = (later.clean - earlier.clean) / half_log_snr_difference(earlier.level, later.level)
    return slope


def extrapolate(history: Sequence[Estimate], next_level: Level[float]) -> Images:
    """Return the clean estimate at the midpoint of the step to ``next_level``, on a line through the last two.

    The last step, to the clean image, has no midpoint in lambda, and a level of pure noise is infinitely far away:
    there the newest estimate is returned.
    """
    newest = history[-1]
    if len(history) < 2 or next_level.sigma == 0 or history[-2].level.alpha == 0:
        return newest.clean
    share = (
        half_log_snr_difference(newest.level, next_level) / half_log_snr_difference(history[-2].level, newest.level) / 2
    )
    ahead: Images = newest.clean + share * (newest.clean - history[-2].clean)
    return ahead


def half_log_snr_difference(level: Level[float], next_level: Level[float]) -> float:
    """Return the difference in ``log(alpha / sigma)`` from one level to a cleaner one, > 0.

    It is infinite from pure noise (also between two such levels, whose images are independent) and to clean images.
    """
    return math.inf if level.alpha == 0 else (log_snr(next_level) - log_snr(level)) / 2
