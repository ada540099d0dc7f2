"""Custom classes, used by their dotted paths in the tests of this folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from annotated_types import Ge

from diffusion_lab.data.source import ArraySource

if TYPE_CHECKING:
    from decimal import Decimal

HERE = __name__
"""``f"{HERE}.Lion"`` is the dotted path of a class below."""

not_a_class = 3


class TakesAnything:
    """Class for sections that only need a callable."""

    def __init__(self, *_: Any, **options: Any) -> None:
        self.options = options

    def to(self, **_: Any) -> TakesAnything:
        return self


class Net(TakesAnything):
    def __init__(self, depth: int, width: int = 8, **others: Any) -> None:
        super().__init__(depth=depth, width=width, **others)


class Process:
    def __init__(self, power: float) -> None:
        self.power = power


class NarrowNet(TakesAnything):
    """Network that takes only what it names."""

    def __init__(self, in_channels: int, model_channels: int, num_classes: int | None, image_size: int = 0) -> None:
        super().__init__(model_channels=model_channels, image_size=image_size)


class Images(ArraySource):
    """A dozen black images."""

    def __init__(self, image_size: int, channels: int, folder: str = "", *, limit: int | None = None) -> None:
        super().__init__(np.zeros((12, channels, image_size, image_size), np.uint8), [0] * 12, ())


class ImagesOf(Images):
    def __init__(self, folder: str, **others: Any) -> None:
        super().__init__(folder=folder, **others)


class Lion:
    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        momentum: float = 0.0,
    ) -> None:
        pass


class PlainDescent:
    """Optimizer without betas and with a required momentum."""

    def __init__(self, params: Iterable[Any], /, *, lr: float, weight_decay: float, momentum: float) -> None:
        pass


class WithoutDecay:
    def __init__(self, params: Iterable[Any], lr: float) -> None:
        pass


class WithoutParameters:
    def __init__(self, *, lr: float, weight_decay: float) -> None:
        pass


class ByPlaceOnly:
    """Class with a positional-only argument, which no key can set."""

    def __init__(self, params: Iterable[Any], scale: float, /, lr: float, weight_decay: float) -> None:
        pass


class Fading:
    def __init__(self, optimizer: object, power: float, end: float | None = 0.0) -> None:
        pass


class FadingByStep(Fading):
    by_step = True

    def __init__(self, optimizer: object, total_steps: int, power: float = 1.0) -> None:
        pass


@dataclass(frozen=True)
class OwnSampler:
    order: Annotated[int, Ge(1)]
    window: tuple[float, float] = (0.0, 1.0)
    names: list[str] = field(default_factory=list)
    cache: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.window[0] > self.window[1]:
            raise ValueError("window must rise")


@dataclass(frozen=True)
class SteppingSampler:
    """Class with an option whose name built-in classes use as well."""

    steps: Annotated[int, Ge(1)] = 9


class PlainSampler:
    def __init__(self, steps: int = 50, churn: float = 0.0) -> None:
        self.steps, self.churn = steps, churn


class SamplerWithItsOwnInit(OwnSampler):
    def __init__(self, power: float) -> None:
        super().__init__(order=1)


@dataclass(frozen=True)
class SamplerOfUnknownType:
    """Class with an annotation that exists only for the type checker."""

    steps: Decimal


@dataclass(frozen=True)
class SamplerOfStrangeType:
    """Class with an annotation that pydantic does not support."""

    steps: TakesAnything


class AbstractSampler(ABC):
    @abstractmethod
    def step(self) -> None: ...


@dataclass(frozen=True)
class AbstractDataclass(ABC):
    steps: int = 3

    @abstractmethod
    def step(self) -> None: ...
