"""Parameterizations: the meaning of the network output, as three coefficients of one formula.

``denoised = c_skip * noisy + c_out * network(c_in * noisy, time)``

Everything else follows from the coefficients, the training target included, so no other code depends on which one is
used. The arithmetic works on floats and tensors alike and needs no tensor library.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Generic

from diffusion_lab.diffusion.level import Level, Number


@dataclass(frozen=True, slots=True)
class Coefficients(Generic[Number]):
    """``denoised = c_skip * noisy + c_out * network(c_in * noisy, time)``."""

    c_skip: Number
    c_out: Number
    c_in: Number


class Parameterization(ABC):
    """Base class: the meaning of the network output."""

    @abstractmethod
    def coefficients(self, level: Level[Number]) -> Coefficients[Number]:
        """Return the coefficients at a noise level with ``sigma > 0``."""

    def target(self, level: Level[Number]) -> tuple[Number, Number]:
        """Return the coefficients of clean image and noise in the training target.

        The target is the output for which the denoised image equals the clean one: the formula above, solved for it.
        """
        c = self.coefficients(level)
        return (1 - c.c_skip * level.alpha) / c.c_out, -c.c_skip * level.sigma / c.c_out


class PredictNoise(Parameterization):
    """The network predicts the noise, ε (DDPM, arXiv:2006.11239, equation 11)."""

    def coefficients(self, level: Level[Number]) -> Coefficients[Number]:
        return Coefficients(c_skip=1 / level.alpha, c_out=-level.sigma / level.alpha, c_in=1 / _scale(level))


class PredictClean(Parameterization):
    """The network predicts the clean image, x0."""

    def coefficients(self, level: Level[Number]) -> Coefficients[Number]:
        return Coefficients(c_skip=level.alpha * 0, c_out=level.alpha**0, c_in=1 / _scale(level))


class PredictVelocity(Parameterization):
    """The network predicts v = alpha · noise − sigma · clean (arXiv:2202.00512, appendix D).

    Divided by ``alpha² + sigma²``, which is one in a variance-preserving process, it holds in every process. Where that
    is above one, v has the scale of the noisy image, and the network predicts it divided by that.
    """

    def coefficients(self, level: Level[Number]) -> Coefficients[Number]:
        power, scale = level.alpha**2 + level.sigma**2, _scale(level)
        return Coefficients(c_skip=level.alpha / power, c_out=-level.sigma * scale / power, c_in=1 / scale)


class PredictFlow(Parameterization):
    """The network predicts noise − clean, the velocity of the straight line (rectified flow, arXiv:2209.03003)."""

    def coefficients(self, level: Level[Number]) -> Coefficients[Number]:
        total = level.alpha + level.sigma
        return Coefficients(c_skip=1 / total, c_out=-level.sigma / total, c_in=1 / _scale(level))


class PreconditionedOutput(Parameterization):
    """Input and output of the network have unit variance at every level (EDM, arXiv:2206.00364, table 1).

    With ``alpha`` below 1 the paper's formulas hold for ``noisy / alpha``, whose noise is ``sigma / alpha``.

    Args:
        sigma_data: Standard deviation of the pixels, > 0.
    """

    def __init__(self, sigma_data: float = 0.5) -> None:
        self.sigma_data = sigma_data

    def coefficients(self, level: Level[Number]) -> Coefficients[Number]:
        signal = level.alpha * self.sigma_data
        total = (signal**2 + level.sigma**2) ** 0.5
        return Coefficients(
            c_skip=signal * self.sigma_data / total**2, c_out=level.sigma * self.sigma_data / total, c_in=1 / total
        )


def _scale(level: Level[Number]) -> Number:
    """The standard deviation of noisy images of unit variance, ``(alpha² + sigma²)^½``, where it is above 1; else 1.

    It makes the input of the network one of unit variance in processes that add noise to the whole image, as EDM does
    (arXiv:2206.00364, table 1); in variance-preserving ones it is 1. On the straight line of rectified flow it would be
    0.7 to 1: there the network sees the noisy image as it is, as in the papers (arXiv:2209.03003, arXiv:2403.03206).
    """
    power = level.alpha**2 + level.sigma**2
    scale: Number = power ** (0.5 * (power > 1))
    return scale


PARAMETERIZATIONS: dict[str, type[Parameterization]] = {
    "epsilon": PredictNoise,
    "x0": PredictClean,
    "v": PredictVelocity,
    "flow": PredictFlow,
    "edm": PreconditionedOutput,
}
