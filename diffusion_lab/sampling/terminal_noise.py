"""Warnings about noise processes that do not end in pure noise, where sampling begins."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from diffusion_lab.config.model_section import DiffusionSettings
from diffusion_lab.diffusion.schedules import BETA_SCHEDULES, DiscreteSchedule, Schedule

MAX_SIGNAL_LEFT = 0.1
"""Image signal left next to the noise, ``alpha / sigma``, at the end of a noise process."""


def remaining_signal_warnings(alpha: float, sigma: float) -> Iterator[str]:
    """Warn if the last noise level leaves some of the image, since sampling starts from pure noise."""
    if alpha > MAX_SIGNAL_LEFT * sigma:
        yield (
            f"the noise process ends with alpha = {alpha:.2g} of the image left (alpha_bar = {alpha**2:.2g}), but "
            "sampling starts from pure noise"
        )


def terminal_noise_warnings(schedule: Schedule, diffusion: DiffusionSettings) -> Iterator[str]:
    """Yield warnings, before training, about signal that the process leaves at its end, and settings that leave none.

    Args:
        schedule: The noise process.
        diffusion: Settings of the noise process.
    """
    last = schedule.level(1.0)
    for warning in remaining_signal_warnings(last.alpha, last.sigma):
        advice = {"discrete": _more_noise(diffusion), "edm": "raise model.diffusion.sigma_max"}.get(diffusion.type)
        yield f"{warning}; {advice}" if advice else warning


def image_process_warnings(schedule: Schedule) -> Iterator[str]:
    """Yield warnings about images of a trained model whose process does not end in pure noise."""
    last = schedule.level(1.0)
    for warning in remaining_signal_warnings(last.alpha, last.sigma):
        yield f"{warning}: images of this checkpoint may be off in brightness and contrast"


def _more_noise(diffusion: DiffusionSettings) -> str:
    """Describe settings whose process ends in noise: betas scaled to the number of steps, or another schedule."""
    scale = 1000 / diffusion.num_timesteps
    start, end = (float(f"{scale * beta:.3g}") for beta in (diffusion.beta_start, diffusion.beta_end))
    if scale > 1 and end < 1:
        betas = BETA_SCHEDULES[diffusion.beta_schedule](diffusion.num_timesteps, start, end)
        if not any(remaining_signal_warnings(*_last(betas))):
            return (
                f"scale the betas by 1000 / {diffusion.num_timesteps} (model.diffusion.beta_start={start:g} "
                f"model.diffusion.beta_end={end:g}), or take model.diffusion.beta_schedule=cosine"
            )
    return "take more steps, a larger model.diffusion.beta_end, or model.diffusion.beta_schedule=cosine"


def _last(betas: Tensor) -> tuple[float, float]:
    """Return alpha and sigma after the last step."""
    last = DiscreteSchedule(betas).level(1.0)
    return last.alpha, last.sigma
