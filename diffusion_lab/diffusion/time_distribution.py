"""Distributions of training times, each given by its quantile function.

Times are computed from numbers uniform in [0, 1], so whether those are drawn independently or stratified over a batch
is a separate choice. Importing this module needs no tensor library.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Gt, Interval

if TYPE_CHECKING:
    from torch import Tensor

    from diffusion_lab.diffusion.schedules import Schedule
    from diffusion_lab.shapes import PerImage, Times


DIFFERENCE = 1e-4
"""Step of difference quotients, relative to the distance to the ends of [0, 1]."""


class TimeDistribution(ABC):
    """Distribution over the times of a noise process."""

    @abstractmethod
    def quantile(self, share: PerImage, schedule: Schedule) -> Times:
        """Return the quantiles ``(N,)`` in [0, 1] at the probabilities ``share`` ``(N,)``."""

    def slope(self, share: PerImage, schedule: Schedule) -> PerImage:
        """Return the derivative of ``quantile`` ``(N,)`` ≥ 0, the reciprocal of the density, by central differences."""
        stride = DIFFERENCE * (share * (1 - share)).clamp(min=DIFFERENCE**2)
        low, high = (share - stride).clamp(min=0), (share + stride).clamp(max=1)
        return (self.quantile(high, schedule) - self.quantile(low, schedule)) / (high - low)


@dataclass(frozen=True)
class ProcessTimes(TimeDistribution):
    """Default distribution of the noise process, ``Schedule.usual_times``."""

    def quantile(self, share: PerImage, schedule: Schedule) -> Times:
        return schedule.usual_times.quantile(share, schedule)


@dataclass(frozen=True)
class UniformTimes(TimeDistribution):
    """Uniform times (arXiv:2006.11239, algorithm 1)."""

    def quantile(self, share: PerImage, schedule: Schedule) -> Times:
        return share


@dataclass(frozen=True)
class LogitNormalTimes(TimeDistribution):
    """Logit-normal times: ``log(t / (1 - t))`` is normal, favouring the middle (arXiv:2403.03206, equation 19)."""

    mean: float = 0.0
    """Mean of the normal distribution; below 0 there are more clean images, above more noisy ones."""
    std: Annotated[float, Gt(0)] = 1.0
    """Standard deviation of the normal distribution."""

    def quantile(self, share: PerImage, schedule: Schedule) -> Times:
        return (self.mean + self.std * _normal_quantile(share)).sigmoid()


@dataclass(frozen=True)
class ModeTimes(TimeDistribution):
    """Mode-weighted times: favour the middle, with a positive density everywhere (arXiv:2403.03206, equation 20)."""

    scale: Annotated[float, Interval(ge=-1, le=2 / (math.pi - 2))] = 1.29
    """Above 0 the middle is favoured, at 0 all times are equally likely, below 0 both ends are favoured."""

    def quantile(self, share: PerImage, schedule: Schedule) -> Times:
        rest = 1 - share  # the paper's curve falls from 1 to 0
        times: Times = 1 - rest - self.scale * ((math.pi / 2 * rest).cos().square() - 1 + rest)
        return times.clamp(0, 1)


@dataclass(frozen=True)
class LogNormalNoise(TimeDistribution):
    """Log-normal noise: ``log(sigma / alpha)`` is normal (EDM, arXiv:2206.00364, table 1)."""

    mean: float = -1.2
    """Mean of the normal distribution."""
    std: Annotated[float, Gt(0)] = 1.2
    """Standard deviation of the normal distribution."""

    def quantile(self, share: PerImage, schedule: Schedule) -> Times:
        return schedule.times(-2 * (self.mean + self.std * _normal_quantile(share)))


def _normal_quantile(share: PerImage) -> Tensor:
    inside = share.double().clamp(1e-9, 1 - 1e-9)  # the ends of a normal distribution lie at infinity
    return math.sqrt(2) * (2 * inside - 1).erfinv()


TIME_DISTRIBUTIONS: dict[str, type[TimeDistribution]] = {
    "auto": ProcessTimes,
    "uniform": UniformTimes,
    "logit_normal": LogitNormalTimes,
    "mode": ModeTimes,
    "log_normal": LogNormalNoise,
}
"""Names that ``training.loss.times.type`` takes."""
