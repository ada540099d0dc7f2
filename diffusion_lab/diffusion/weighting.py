"""Loss weightings by noise level.

Most weightings are defined for the error of the *clean image*. The weight of the error of the network output follows
from the parameterization, since the two differ by the factor ``c_out``, so each weighting is right for all of them.
Importing this module needs no tensor library.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Ge, Gt

from diffusion_lab.diffusion.level import Level

if TYPE_CHECKING:
    from torch import Tensor

    from diffusion_lab.diffusion.parameterization import Parameterization
    from diffusion_lab.shapes import PerImage


USUAL_SIGMA_DATA = 0.5
"""Standard deviation of image pixels (arXiv:2206.00364, table 1)."""


class Weighting(ABC):
    """Loss weight as a function of the noise level."""

    per_log_snr: ClassVar[bool] = False
    """True if the weights are a density in log-SNR. The loss then divides them by the density of log-SNR in training,
    so that the objective is the same for every noise process and distribution of times."""

    @abstractmethod
    def output_weight(self, level: Level[Tensor], parameterization: Parameterization) -> PerImage:
        """Return weights ``(N,)`` ≥ 0 of the squared error of the network output, at levels with ``sigma > 0``."""

    def penalty_weight(self, level: Level[Tensor], parameterization: Parameterization, degree: int) -> PerImage:
        """Return weights ``(N,)`` ≥ 0 of a penalty of that degree of the error of the network output."""
        return self.output_weight(level, parameterization)


class CleanWeighting(Weighting):
    """Weighting defined for the error of the clean image."""

    @abstractmethod
    def clean_weight(self, level: Level[Tensor]) -> PerImage:
        """Return weights ``(N,)`` ≥ 0 of the error of the clean image."""

    def output_weight(self, level: Level[Tensor], parameterization: Parameterization) -> PerImage:
        return self.penalty_weight(level, parameterization, degree=2)

    def penalty_weight(self, level: Level[Tensor], parameterization: Parameterization, degree: int) -> PerImage:
        return self.clean_weight(level) * abs(parameterization.coefficients(level).c_out) ** degree


@dataclass(frozen=True)
class UniformWeighting(Weighting):
    """Uniform weight on the network output (the simple loss of arXiv:2006.11239, equation 14)."""

    def output_weight(self, level: Level[Tensor], parameterization: Parameterization) -> PerImage:
        return level.sigma**0


@dataclass(frozen=True)
class MinSNRWeighting(CleanWeighting):
    """Min-SNR: the signal-to-noise ratio, clipped at gamma (arXiv:2303.09556, section 3.4)."""

    gamma: Annotated[float, Gt(0)] = 5.0
    """Largest weight."""

    def clean_weight(self, level: Level[Tensor]) -> PerImage:
        return _snr(level).clamp(max=self.gamma)


@dataclass(frozen=True)
class P2Weighting(CleanWeighting):
    """P2: ``1 / (k + SNR)^gamma`` for the error of the noise, less weight on low noise (arXiv:2204.00227, eq. 8)."""

    gamma: Annotated[float, Ge(0)] = 1.0
    """Exponent of that reduction; 0 is the simple loss of the noise."""
    k: Annotated[float, Gt(0)] = 1.0
    """Keeps the weights finite."""

    def clean_weight(self, level: Level[Tensor]) -> PerImage:
        snr = _snr(level)
        return snr / (self.k + snr) ** self.gamma


@dataclass(frozen=True)
class EDMWeighting(CleanWeighting):
    """EDM: uniform weight on the preconditioned output of EDM, whatever the network predicts (arXiv:2206.00364)."""

    sigma_data: Annotated[float, Gt(0)] | Literal["auto"] = "auto"
    """Standard deviation of the pixels; ``auto`` is that of ``model.diffusion``, or measured by a run. (From Python
    it is the paper's, 0.5.)"""

    def clean_weight(self, level: Level[Tensor]) -> PerImage:
        # (sigma² + sigma_data²) / (sigma · sigma_data)² for the noise of an image that is not scaled, sigma / alpha
        data = (USUAL_SIGMA_DATA if self.sigma_data == "auto" else self.sigma_data) ** 2
        return (level.sigma**2 + level.alpha**2 * data) / (level.sigma**2 * data)


@dataclass(frozen=True)
class SigmoidWeighting(CleanWeighting):
    """Sigmoid of the log-SNR for the error of the noise, as a density in log-SNR (arXiv:2303.00848, equation 8;
    arXiv:2410.19324, section 3): the objective is the same in every noise process."""

    per_log_snr = True

    bias: float = 0.0
    """The log-SNR at which the weight is one half; larger values weigh finer detail more."""

    def clean_weight(self, level: Level[Tensor]) -> PerImage:
        snr = _snr(level)
        return snr * (self.bias - snr.log()).sigmoid()


def _snr(level: Level[Tensor]) -> Tensor:
    return (level.alpha / level.sigma) ** 2


WEIGHTINGS: dict[str, type[Weighting]] = {
    "uniform": UniformWeighting,
    "min_snr": MinSNRWeighting,
    "p2": P2Weighting,
    "edm": EDMWeighting,
    "sigmoid": SigmoidWeighting,
}
"""Names that ``training.loss.weighting.type`` takes."""
