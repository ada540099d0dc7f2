"""The one loop of all samplers, and the one move that they share.

A sampler is arithmetic on images and plain numbers: this package needs no tensor library to be imported, so the
settings of a sampler are checked long before one is loaded.
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
"""The estimated clean images, given noisy ones and their level."""

Draw = Callable[[], "Images"]
"""Fresh standard normal noise of the images' shape."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a denoiser believed at a level, and the images that the walk went on from there."""

    level: Level[float]
    clean: Images
    noisy: Images


@dataclass(frozen=True)
class Sampler(ABC):
    """A way from noise to images. Its fields are its settings; a subclass writes one ``step``."""

    steps: Annotated[int, Ge(1)] | None = 50
    """Denoising steps; ``null`` takes every step of the training process, or every time that ``spacing`` lists."""
    spacing: SpacingName | tuple[Annotated[float, Interval(gt=0, le=1)], ...] = "trailing"
    """How the steps are spread over the process: by a rule, or a falling list of times in (0, 1]. Multistep solvers
    (2M, 3M, UniPC) have their full order with ``log_snr`` and ``karras``; under ``trailing`` it is 1 to 2 in most
    processes."""
    clip: bool = True
    """Keep each clean estimate inside the pixel range [-1, 1]."""
    dynamic_threshold: Annotated[float, Interval(gt=0, le=1)] | None = None
    """Clip each image to this quantile of its absolute pixels and divide by it, where it is above 1, and to [-1, 1]
    elsewhere (arXiv:2205.11487, section 2.3): with strong guidance, detail instead of flat black and white. Holds with
    ``clip: false`` as well."""

    history_size: ClassVar[int] = 1
    """How many estimates, the newest included, ``step`` is handed."""

    def __post_init__(self) -> None:
        if isinstance(self.spacing, str):
            return
        if not self.spacing or any(later >= time for time, later in pairwise(self.spacing)):
            raise ValueError(f"sampler.spacing must be a falling list of times in (0, 1], got {list(self.spacing)}")
        if self.steps not in (None, len(self.spacing)):
            raise ValueError(
                f"sampler.steps must be null or {len(self.spacing)}, the number of times in sampler.spacing, "
                f"got {self.steps}"
            )

    @abstractmethod
    def step(
        self, noisy: Images, history: Sequence[Estimate], next_level: Level[float], denoise: Denoise, draw_noise: Draw
    ) -> Images:
        """Move images from the level of ``past[-1]`` to ``next_level``.

        Args:
            noisy: Images ``(N, C, H, W)`` at the level of ``past[-1]``.
            past: The clean estimates so far, oldest first, at most ``history_size`` of them; the last is of ``noisy``.
            there: The next, cleaner level. The last of a walk is clean: ``alpha`` 1 and ``sigma`` 0.
            denoise: For methods that need a further estimate within the step.
            draw: For methods that add noise.
        """

    def correct(self, noisy: Images, clean: Images, level: Level[float], history: Sequence[Estimate]) -> Images:
        """Better images at ``level``, now that the estimate of those the last step gave is known; ``history`` precedes it.

        Methods without a corrector leave them as they are.
        """
        return noisy

    def levels(self, schedule: Schedule) -> list[Level[float]]:
        """The levels of a walk, noisiest first, ending with the clean one. Where one is noisier than the one before
        it, noise is added.

        Raises:
            ValueError: More steps than the process has, or null steps for a process without steps of its own.
        """
        if isinstance(self.spacing, str):
            times = SPACINGS[self.spacing](schedule.check_steps(self.steps), schedule)
        else:
            times = list(self.spacing)
        return [*map(schedule.level, times), Level(1.0, 0.0, 0.0)]

    def walk(
        self, denoise: Denoise, noise: Images, levels: Sequence[Level[float]], draw_noise: Draw
    ) -> Iterator[Images]:
        """Turn standard normal noise ``(N, C, H, W)`` into images; yields them at every level after the first.

        The walk starts from noise of the variance that images of unit variance have at the first level.
        """
        start = levels[0]
        noisy = (start.alpha**2 + start.sigma**2) ** 0.5 * noise
        history: list[Estimate] = []
        for level, next_level in pairwise(levels):
            if log_snr(next_level) < log_snr(level):
                noisy = self.add_noise(noisy, level, next_level, draw_noise)
            else:
                clean = self._estimate(denoise, noisy, level)
                noisy = self.correct(noisy, clean, level, history)
                history = [*history, Estimate(level, clean, noisy)][-self.history_size :]
                noisy = self.step(noisy, history, next_level, lambda x, at: self._estimate(denoise, x, at), draw_noise)
            yield noisy

    def add_noise(self, noisy: Images, level: Level[float], next_level: Level[float], draw_noise: Draw) -> Images:
        """Add the noise that leads up to a noisier level."""
        stirred: Images = (
            signal_ratio(next_level, level) * noisy + added_variance(next_level, level) ** 0.5 * draw_noise()
        )
        return stirred

    def _estimate(self, denoise: Denoise, noisy: Images, level: Level[float]) -> Images:
        clean = denoise(noisy, level)
        if self.dynamic_threshold is not None:
            largest = clean.abs().flatten(1).quantile(self.dynamic_threshold, dim=1).clamp(min=1)
            clean = clean / largest.view(-1, *[1] * (clean.ndim - 1))
        return clean.clamp(-1, 1) if self.clip or self.dynamic_threshold is not None else clean


def ddim_update(noisy: Images, clean: Images, level: Level[float], next_level: Level[float]) -> Images:
    """Follow the ODE from one level to the next, the clean estimate held fixed (DDIM, arXiv:2010.02502).

    The noise that ``noisy`` holds beside ``clean`` is kept and scaled; at a clean ``next_level`` only ``clean`` is left.
    """
    kept = next_level.sigma / level.sigma
    return kept * noisy + (next_level.alpha - kept * level.alpha) * clean


def posterior_variance(level: Level[float], next_level: Level[float]) -> float:
    """Variance of the images at ``next_level``, those at ``level`` and the clean ones known (arXiv:2006.11239, eq. 7)."""
    return added_variance(level, next_level) * next_level.sigma**2 / level.sigma**2


def added_variance(level: Level[float], next_level: Level[float]) -> float:
    """Variance of the noise that the process adds between ``next_level`` and the noisier ``level``.

    For neighbouring levels of a discrete process this is its beta; arXiv:2102.09672, section 3.1, for others.
    """
    return max(
        level.sigma**2 - signal_ratio(level, next_level) ** 2 * next_level.sigma**2, 0.0
    )  # rounding may push it below zero


def signal_ratio(level: Level[float], next_level: Level[float]) -> float:
    """The share of the image at ``next_level`` that the process keeps up to the noisier ``level``.

    Where nothing of the image is left, none of it: also between two such levels, which are the same noise anew.
    """
    return level.alpha / next_level.alpha if level.alpha > 0 else 0.0
