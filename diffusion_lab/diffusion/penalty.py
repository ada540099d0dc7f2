"""What an error of a pixel costs, by its size. The arithmetic needs no tensor library to be imported."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Gt

if TYPE_CHECKING:
    from torch import Tensor


class Penalty(ABC):
    """The cost of the difference between what a network puts out and what it should."""

    degree: ClassVar[int] = 2
    """The power of a large error that the cost grows with: by it weights of the clean image's error are converted."""

    @abstractmethod
    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """The cost of each entry, of the arguments' shape."""


@dataclass(frozen=True)
class SquaredError(Penalty):
    """The square."""

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        return (output - target).square()


@dataclass(frozen=True)
class AbsoluteError(Penalty):
    """The size: outliers count less than in the square."""

    degree = 1

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        return (output - target).abs()


@dataclass(frozen=True)
class HuberError(Penalty):
    """The square of small errors, the size of large ones, smoothly joined (pseudo-Huber, arXiv:2310.14189, eq. 7)."""

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
"""The names that ``training.loss.penalty.type`` takes."""
