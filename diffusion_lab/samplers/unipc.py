"""UniPC (arXiv:2302.04867): a predictor, and a corrector that needs no further network evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffusion_lab.diffusion.level import Level
from diffusion_lab.samplers.base import Estimate, ddim_update
from diffusion_lab.samplers.dpm_solver_pp import DPMSolverPP2MSampler, half_log_snr_difference

if TYPE_CHECKING:
    from diffusion_lab.shapes import Images


@dataclass(frozen=True)
class UniPCSampler(DPMSolverPP2MSampler):
    """UniPC-2 with B(h) = exp(h) - 1: its predictor is DPM-Solver++ (2M).

    The corrector repeats the last step with the estimate at its end (arXiv:2302.04867, algorithm 1).
    """

    order = 3  # it corrects its predictor of second order (arXiv:2302.04867, section 3)

    def correct(self, x: Images, clean: Images, level: Level[float], history: Sequence[Estimate]) -> Images:
        if not history or history[-1].level.alpha == 0:
            return x
        begin = history[-1]
        h = half_log_snr_difference(begin.level, level)
        rise = clean - begin.clean
        if len(history) < 2 or history[-2].level.alpha == 0:
            corrected = rise / 2
        else:
            before = half_log_snr_difference(history[-2].level, begin.level) / h
            slope = (begin.clean - history[-2].clean) / before  # of the estimate, a whole step long
            # Order conditions (equation 13): exact for u and u² over a step of length one.
            grown = 1 - math.exp(-h)
            first = 1 / grown - 1 / h
            second = 1 / grown - 2 * first / h
            older = (first - second) / (1 + before)
            corrected = older * slope + (first - older) * rise
        return ddim_update(begin.noisy, begin.clean + corrected, begin.level, level)
