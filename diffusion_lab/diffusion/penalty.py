"""Loss functions of the pixel error. Importing them needs no tensor library."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Gt

if TYPE_CHECKING:
    from torch import Tensor


class Penalty(ABC):
    """Loss of a network output, element by element."""

    degree: ClassVar[int] = 2
    """Degree of growth for large errors, by which weights of the clean image's error are converted."""

    @abstractmethod
    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each element, in the shape of the arguments."""


@dataclass(frozen=True)
class SquaredError(Penalty):
    """Squared error."""

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        return (output - target).square()


@dataclass(frozen=True)
class AbsoluteError(Penalty):
    """Absolute error, less sensitive to outliers than the squared error."""

    degree = 1

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        return (output - target).abs()


@dataclass(frozen=True)
class HuberError(Penalty):
    """Pseudo-Huber loss: quadratic for small errors, linear for large ones (arXiv:2310.14189, equation 7)."""

    degree = 1

    delta: Annotated[float, Gt(0)] = 0.1
    """The error at which the one passes into the other."""

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        return 2 * self.delta * (((output - target).square() + self.delta**2).sqrt() - self.delta)


PENALTIES: dict[str, type[Penalty]] = {
    "mse": SquaredError,
    "l1": AbsoluteError,
    "huber": HuberError,
}
"""Names that ``training.loss.penalty.type`` takes."""
