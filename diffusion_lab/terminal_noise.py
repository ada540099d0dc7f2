"""Whether a noise process ends in noise, from which sampling begins, and what to change where it does not."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from diffusion_lab.config.model_section import DiffusionSettings
from diffusion_lab.config.suspicious_settings import remaining_signal_warnings
from diffusion_lab.diffusion.schedules import BETA_SCHEDULES, DiscreteSchedule, Schedule


def terminal_noise_warnings(schedule: Schedule, diffusion: DiffusionSettings) -> Iterator[str]:
    """Say of a model that is to be trained what of the image its process leaves, and which settings leave nothing.

    Args:
        schedule: The noise process.
        diffusion: The settings that it was made from.
    """
    last = schedule.level(1.0)
    for doubt in remaining_signal_warnings(last.alpha, last.sigma):
        instead = {"discrete": _more_noise(diffusion), "edm": "raise model.diffusion.sigma_max"}.get(diffusion.type)
        yield f"{doubt}; {instead}" if instead else doubt


def image_process_warnings(schedule: Schedule) -> Iterator[str]:
    """Say of a model that is trained what its images may lack because its process does not end in noise."""
    last = schedule.level(1.0)
    for doubt in remaining_signal_warnings(last.alpha, last.sigma):
        yield f"{doubt}: images of this checkpoint may be off in brightness and contrast"


def _more_noise(diffusion: DiffusionSettings) -> str:
    """Settings whose process ends in noise: betas for the number of steps, as for 1000, or those that need none."""
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
    """Alpha and sigma after the last step."""
    last = DiscreteSchedule(betas).level(1.0)
    return last.alpha, last.sigma
