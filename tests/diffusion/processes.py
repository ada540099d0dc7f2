"""Every noise process there is, by name: what is claimed of all is tested with all."""

from __future__ import annotations

from functools import cache

from diffusion_lab.diffusion.continuous import ContinuousCosineSchedule, EDMSchedule, FlowSchedule
from diffusion_lab.diffusion.schedules import (
    BETA_SCHEDULES,
    DiscreteSchedule,
    Schedule,
    enforce_zero_terminal_snr,
    linear_betas,
)

DISCRETE: dict[str, DiscreteSchedule] = {
    **{name: DiscreteSchedule(betas(1000, 1e-4, 0.02)) for name, betas in BETA_SCHEDULES.items()},
    "zero_terminal_snr": DiscreteSchedule(enforce_zero_terminal_snr(linear_betas(1000, 1e-4, 0.02))),
}
CONTINUOUS: dict[str, Schedule] = {
    "continuous_cosine": ContinuousCosineSchedule(noise_shift=2.0),
    "edm": EDMSchedule(),
    "flow": FlowSchedule(),
}
PROCESSES: dict[str, Schedule] = {**DISCRETE, **CONTINUOUS}

# Walks are tested by the thousand, over the same few levels: remembered, they cost a third of the time.
for schedule in PROCESSES.values():
    schedule.level = cache(schedule.level)
    schedule.time = cache(schedule.time)
