"""Base class of all samplers: the sampling loop, and the update that the methods share.

A sampler is arithmetic on images and plain numbers: this package imports no tensor library, so the settings of a
sampler are checked long before one is loaded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Ge, Interval

from diffusion_lab.diffusion.level import Level, log_snr
from diffusion_lab.samplers.spacing import SPACINGS, SpacingName

if TYPE_CHECKING:
    from diffusion_lab.diffusion.schedules import Schedule
    from diffusion_lab.shapes import Images

Denoise = Callable[["Images", Level[float]], "Images"]
"""Estimates the clean images, given noisy ones and their level."""

Draw = Callable[[], "Images"]
"""Draws standard normal noise of the images' shape."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Clean images as estimated at a level, and the noisy images they were estimated from."""

    level: Level[float]
    clean: Images
    noisy: Images


@dataclass(frozen=True)
class Sampler(ABC):
    """Base class of sampling methods: fields are its settings, and a subclass implements ``step``."""

    steps: Annotated[int, Ge(1)] | None = 50
    """Denoising steps; ``null`` takes every step of the training process, or every time that ``spacing`` lists."""
    spacing: SpacingName | tuple[Annotated[float, Interval(gt=0, le=1)], ...] = "trailing"
    """Spacing of the steps over the process: by a rule, or a falling list of times in (0, 1]. Multistep solvers
    (2M, 3M, UniPC) have their full order with ``log_snr`` and ``karras``; under ``trailing`` it is 1 to 2 in most
    processes."""
    clip: bool = True
    """Keep each clean estimate inside the pixel range [-1, 1]."""
    dynamic_threshold: Annotated[float, Interval(gt=0, le=1)] | None = None
    """Clip each image to this quantile of its absolute pixels and divide by it, where it is above 1, and to [-1, 1]
    elsewhere (arXiv:2205.11487, section 2.3): with strong guidance, detail instead of flat black and white. Holds with
    ``clip: false`` as well."""

    order: ClassVar[int | None] = None
    """Order of the method: the error of a solution of the ODE falls with this power of the length of the steps; None
    for a method that always adds noise."""
    history_size: ClassVar[int] = 1
    """Number of estimates passed to ``step``, the newest included."""

    def __post_init__(self) -> None:
        if isinstance(self.spacing, str):
            return
        if not self.spacing or any(later >= time for time, later in pairwise(self.spacing)):
            raise ValueError(f"spacing must be a falling list of times in (0, 1], got {list(self.spacing)}")
        if self.steps not in (None, len(self.spacing)):
            raise ValueError(
                f"steps must be null (None) or {len(self.spacing)}, the number of times in spacing, got {self.steps}"
            )

    @abstractmethod
    def step(
        self, x: Images, history: Sequence[Estimate], next_level: Level[float], denoise: Denoise, draw_noise: Draw
    ) -> Images:
        """Move images from the level of ``history[-1]`` to ``next_level``.

        Args:
            x: Noisy images ``(N, C, H, W)`` at the level of ``history[-1]``.
            history: Clean estimates so far, oldest first, at most ``history_size`` of them; the last is that of ``x``.
            next_level: The next, cleaner level. The last one is clean: ``alpha`` 1 and ``sigma`` 0.
            denoise: For methods that need a further estimate within the step.
            draw_noise: For methods that add noise.

        Returns:
            Images ``(N, C, H, W)`` at ``next_level``.
        """

    def correct(self, x: Images, clean: Images, level: Level[float], history: Sequence[Estimate]) -> Images:
        """Correct the images that the last step gave, now that the clean estimate at ``level`` is known.

        Args:
            x: Noisy images ``(N, C, H, W)`` at ``level``.
            clean: Their clean estimate.
            level: The level that the last step led to.
            history: The estimates before this one.

        Returns:
            Images at the same level; ``x`` itself for methods without a corrector.
        """
        return x

    def levels(self, schedule: Schedule) -> list[Level[float]]:
        """Return the levels to visit, noisiest first, ending with the clean one.

        Where a level is noisier than the one before it, noise is added.

        Raises:
            ValueError: More steps than the process has, or null steps for a process without steps of its own.
        """
        if isinstance(self.spacing, str):
            times = SPACINGS[self.spacing](schedule.check_steps(self.steps), schedule)
        else:
            times = list(self.spacing)
        return [*map(schedule.level, times), Level(1.0, 0.0, 0.0)]

    def trajectory(
        self, denoise: Denoise, noise: Images, levels: Sequence[Level[float]], draw_noise: Draw
    ) -> Iterator[Images]:
        """Turn standard normal noise into images, yielding them at every level after the first.

        Args:
            denoise: The denoiser.
            noise: Standard normal noise ``(N, C, H, W)``; it is scaled to the variance that images of unit variance
                have at the first level.
            levels: Levels to visit, as ``levels()`` returns them.
            draw_noise: Source of further noise.
        """
        start = levels[0]
        x = (start.alpha**2 + start.sigma**2) ** 0.5 * noise
        history: list[Estimate] = []
        for level, next_level in pairwise(levels):
            if log_snr(next_level) < log_snr(level):
                x = self.add_noise(x, level, next_level, draw_noise)
            else:
                clean = self._estimate(denoise, x, level)
                x = self.correct(x, clean, level, history)
                history = [*history, Estimate(level, clean, x)][-self.history_size :]
                x = self.step(x, history, next_level, lambda x, at: self._estimate(denoise, x, at), draw_noise)
            yield x

    def add_noise(self, x: Images, level: Level[float], next_level: Level[float], draw_noise: Draw) -> Images:
        """Add the noise that takes images from ``level`` up to a noisier ``next_level``."""
        noisier: Images = signal_ratio(next_level, level) * x + added_variance(next_level, level) ** 0.5 * draw_noise()
        return noisier

    def _estimate(self, denoise: Denoise, x: Images, level: Level[float]) -> Images:
        clean = denoise(x, level)
        if self.dynamic_threshold is not None:
            largest = clean.abs().flatten(1).quantile(self.dynamic_threshold, dim=1).clamp(min=1)
            clean = clean / largest.view(-1, *[1] * (clean.ndim - 1))
        return clean.clamp(-1, 1) if self.clip or self.dynamic_threshold is not None else clean


def ddim_update(x: Images, clean: Images, level: Level[float], next_level: Level[float]) -> Images:
    """Follow the ODE from one level to the next with the clean estimate held fixed (DDIM, arXiv:2010.02502).

    The noise in ``x`` is kept and rescaled; at a clean ``next_level`` only ``clean`` remains.
    """
    kept = next_level.sigma / level.sigma
    return kept * x + (next_level.alpha - kept * level.alpha) * clean


def posterior_variance(level: Level[float], next_level: Level[float]) -> float:
    """Return the variance of the posterior at ``next_level``, given ``level`` and the clean images
    (arXiv:2006.11239, equation 7).
    """
    return added_variance(level, next_level) * next_level.sigma**2 / level.sigma**2


def added_variance(level: Level[float], next_level: Level[float]) -> float:
    """Return the variance of the noise that the forward process adds between ``next_level`` and the noisier ``level``.

    For neighbouring levels of a discrete process this is its beta; arXiv:2102.09672, section 3.1, for others.
    """
    variance = level.sigma**2 - signal_ratio(level, next_level) ** 2 * next_level.sigma**2
    return max(variance, 0.0)  # rounding may push it below zero


def signal_ratio(level: Level[float], next_level: Level[float]) -> float:
    """Return the factor by which the forward process scales images from ``next_level`` to the noisier ``level``.

    It is 0 where no signal is left, also between two such levels.
    """
    return level.alpha / next_level.alpha if level.alpha > 0 else 0.0
