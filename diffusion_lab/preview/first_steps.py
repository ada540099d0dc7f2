"""Sampler that makes the first steps of another one and measures their time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import torch

from diffusion_lab.diffusion.level import Level
from diffusion_lab.diffusion.schedules import Schedule
from diffusion_lab.samplers import Sampler
from diffusion_lab.samplers.base import Denoise, Draw, Estimate
from diffusion_lab.shapes import Images

SECONDS, FEWEST_STEPS = 6.0, 3
"""When sampling is interrupted: after this time, but not before so many steps."""


class TimeIsUp(Exception):
    """Raised to interrupt sampling."""


class FirstSteps(Sampler):
    """Samples as another sampler, and raises ``TimeIsUp`` after some time.

    Attributes:
        images: Number of images in the batch.
        done: Steps made.
        total: Steps of the sampler.
        seconds: Time of the steps made.
    """

    images: int
    done: int
    total: int
    seconds: float

    def __init__(self, sampler: Sampler) -> None:
        super().__init__(steps=sampler.steps, spacing=sampler.spacing)
        self._set(sampler=sampler, images=0, done=0, total=0, seconds=0.0)

    def levels(self, schedule: Schedule) -> list[Level[float]]:
        levels: list[Level[float]] = self.__dict__["sampler"].levels(schedule)
        return levels

    def step(
        self, x: Images, history: Sequence[Estimate], next_level: Level[float], denoise: Denoise, draw_noise: Draw
    ) -> Images:
        images: Images = self.__dict__["sampler"].step(x, history, next_level, denoise, draw_noise)
        return images

    def trajectory(
        self, denoise: Denoise, noise: Images, levels: Sequence[Level[float]], draw_noise: Draw
    ) -> Iterator[Images]:
        began = time.perf_counter()
        self._set(images=len(noise), total=len(levels) - 1)
        for done, images in enumerate(self.__dict__["sampler"].trajectory(denoise, noise, levels, draw_noise), start=1):
            synchronize(images.device)
            self._set(done=done, seconds=time.perf_counter() - began)
            if FEWEST_STEPS <= done < self.total and self.seconds > SECONDS:
                raise TimeIsUp
            yield images

    def _set(self, **values: object) -> None:
        self.__dict__.update(values)  # the base class is frozen


def synchronize(device: torch.device) -> None:
    """Wait until a device has done all its work; nothing on a CPU."""
    if device.type == "mps":
        torch.mps.synchronize()
    elif device.type != "cpu":
        torch.get_device_module(device).synchronize(device)
