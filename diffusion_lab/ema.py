"""Exponential moving averages of weights."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _IncompatibleKeys

from diffusion_lab.config.faults import ConfigWarning
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.devices import resolve_device
from diffusion_lab.ema_formats import FoundAverage, bare_names, find_average

ModelT = TypeVar("ModelT", bound=nn.Module)


class EMA(nn.Module, Generic[ModelT]):
    """Running averages of the weights of a model, each a copy of the model that is never trained.

    Args:
        model: Whose weights are averaged; each average begins as a copy of them. The model itself is no part of the
            EMA: neither its parameters nor its ``state_dict`` hold it.
        decay: Share of the main average, ``average``, kept at each update, in [0, 1).
        device: Where the averages are kept, such as ``cuda:1``; with the model where None.
        warmup: Begin with a smaller decay, ``(1 + n) / (10 + n)`` at update n, so that the initial weights are
            soon forgotten (the rule of TensorFlow's ExponentialMovingAverage).
        further_decays: Of the averages in ``further``, each different from all others. Each costs the memory of one
            copy of the weights.

    Raises:
        TypeError: ``model`` is no ``torch.nn.Module``.
        ValueError: A decay is out of its bounds, or given twice.

    Example:
        >>> from diffusion_lab import EMA, DiffusionSampler, create_ddpm
        >>> model = create_ddpm(image_size=8, in_channels=1, model_channels=8, channel_multipliers=[1, 2],
        ...                     use_attention=[False, True])
        >>> ema = EMA(model, decay=0.999)
        >>> ema.update()  # after each optimizer step
        >>> with ema.average_parameters():  # the model has the averaged weights in here
        ...     error = model.training
        >>> sampler = DiffusionSampler(model=model, ema=ema)
    """

    updates: Tensor

    def __init__(
        self,
        model: ModelT,
        decay: float = 0.9999,
        device: str | torch.device | None = None,
        *,
        warmup: bool = False,
        further_decays: Sequence[float] = (),
    ) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, whose weights are averaged, got {type(model).__name__}")
        self.decays = _checked_decays(decay, further_decays)
        self.average: ModelT = copy.deepcopy(model).requires_grad_(False).eval()
        if isinstance(self.average, Denoiser):
            self.average.weights = "ema"
        self.further = nn.ModuleList(copy.deepcopy(self.average) for _ in further_decays)
        self.decay = decay
        self.warmup = warmup
        self.register_buffer("updates", torch.tensor(0, dtype=torch.int64))
        self._updates: int | None = None  # the same as a plain number: reading the buffer makes a GPU wait
        # In lists, or their weights would count as this module's own.
        self._model: list[nn.Module] = [model]
        # Whose tensors were looked for last, and what was found: the search takes longer than the arithmetic.
        self._sources: list[nn.Module] = []
        self._tensors: list[_Tensors] = []
        self._trained: list[Tensor] = []  # the weights that the average stands in for
        self._applied_to: list[nn.Module] = []
        if device is not None:
            self.to(resolve_device(device, "device"))

    def decay_at(self, update: int, decay: float) -> float:
        """The decay used for update number ``update``, counted from 1, of the average that has ``decay`` in the end."""
        return min(decay, (1 + update) / (10 + update)) if self.warmup else decay

    def initial_share(self, updates: int, decay: float) -> float:
        """Share of the initial weights that is left in the average of a decay after so many updates.

        While the decay rises, the factors (1 + n) / (10 + n) of the first m updates multiply to
        10! / ((m + 2) ⋯ (m + 10)); the rest is a power.
        """
        rising = min(updates, _updates_below(decay)) if self.warmup else 0
        risen = math.prod(factor / (rising + factor) for factor in range(2, 11))
        return risen * decay ** (updates - rising)

    @torch.no_grad()
    def update(self, model: nn.Module | None = None) -> None:
        """Take in the present weights: ``average ← decay · average + (1 − decay) · weights``, for each decay.

        Args:
            model: Whose weights; those of the model that the EMA was made for where None.

        Raises:
            RuntimeError: The model has the averaged weights at the moment, by ``apply_shadow``.
            ValueError: The model is of another architecture.
        """
        model = self._model[0] if model is None else model
        if self._applied_to == [model]:
            raise RuntimeError("update needs the trained weights, and the model has the averaged ones: call restore()")
        self._find_tensors(model)
        self._updates = int(self.updates) + 1 if self._updates is None else self._updates + 1
        self.updates += 1
        weights, *averages = self._tensors
        for average, decay in zip(averages, self.decays.values(), strict=True):
            present = weights.numbers
            if weights.kind != average.kind:
                present = [new.to(kept.device, kept.dtype) for new, kept in zip(present, average.numbers, strict=True)]
            torch._foreach_lerp_(average.numbers, present, 1 - self.decay_at(self._updates, decay))
            for kept, new in zip(average.counters, weights.counters, strict=True):  # no average of these
                kept.copy_(new)

    @torch.no_grad()
    def apply_shadow(self, model: nn.Module | None = None) -> None:
        """Give a model the weights of the main average, until ``restore`` puts its own back.

        Args:
            model: The model that the EMA was made for where None.

        Raises:
            RuntimeError: They are applied already.
            ValueError: The model is of another architecture.
        """
        if self._applied_to:
            raise RuntimeError("the averaged weights are applied already: call restore() before apply_shadow()")
        model = self._model[0] if model is None else model
        self._find_tensors(model)
        weights, average = self._tensors[:2]
        self._trained, self._applied_to = [tensor.clone() for tensor in weights.all], [model]
        for own, averaged in zip(weights.all, average.all, strict=True):
            own.copy_(averaged)

    @torch.no_grad()
    def restore(self, model: nn.Module | None = None) -> None:
        """Give a model back, bit by bit, the weights that it had before ``apply_shadow``.

        Raises:
            RuntimeError: No averaged weights are applied, or those of another model.
        """
        if not self._applied_to or model not in (None, *self._applied_to):
            of_it = " for this model" if self._applied_to else ""
            raise RuntimeError(f"restore() needs an apply_shadow() before it, which was not called{of_it}")
        (applied,) = self._applied_to
        for own, trained in zip(_tensors(applied).all, self._trained, strict=True):
            own.copy_(trained)
        self._trained, self._applied_to = [], []

    @contextmanager
    def average_parameters(self, model: nn.Module | None = None) -> Iterator[None]:
        """Give a model the weights of the main average inside a ``with`` block; arguments as of ``apply_shadow``."""
        self.apply_shadow(model)
        try:
            yield
        finally:
            self.restore(model)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> _IncompatibleKeys:
        """Load what ``state_dict`` returned, or averages that another program saved.

        Those are a state dict of the model, or a dict of name → tensor, alone or under ``shadow``, with or without
        ``decay`` and ``num_updates``. All averages then begin with these weights. The decay stays that of this EMA.

        Raises:
            ValueError: They are none, or belong to another architecture.

        Warns:
            ConfigWarning: The averages were made with another decay.
        """
        if isinstance(state_dict, Mapping) and any(str(name).startswith("average.") for name in state_dict):
            try:
                found: _IncompatibleKeys = super().load_state_dict(state_dict, strict, assign)
            except RuntimeError as error:
                decays = ", ".join(f"{decay:g}" for decay in self.decays.values())
                raise ValueError(
                    f"state_dict is not of an EMA of this model with {len(self.decays)} averages (of decay {decays}): "
                    f"{' '.join(str(error).split())}"
                ) from error
            return found
        try:
            average = find_average(state_dict, self.average.state_dict())
            self.begin_from(average)
        except ValueError as error:
            raise ValueError(f"state_dict {error}") from error
        if average.decay not in (None, self.decay):
            warnings.warn(
                f"state_dict is of an EMA of decay {average.decay:g}: this one goes on with {self.decay:g}",
                ConfigWarning,
                stacklevel=2,
            )
        return _IncompatibleKeys([], [])

    @torch.no_grad()
    def begin_from(self, average: FoundAverage) -> None:
        """Let all averages go on from another one.

        Args:
            average: Weights by their bare names; buffers may be missing. Where it tells no number of updates, warm-up
                counts as done, since it would forget these weights.

        Raises:
            ValueError: It belongs to another architecture, in words that go on from a name.
        """
        buffers = bare_names({name: name in dict(self.average.named_buffers()) for name in self.average.state_dict()})
        for one in (self.average, *self.further):
            own = bare_names(one.state_dict())
            missing = [name for name in own if name not in average.weights and not buffers[name]]
            unknown = [name for name in average.weights if name not in own]
            other = [name for name, new in average.weights.items() if name in own and own[name].shape != new.shape]
            if missing or unknown or other:
                raise ValueError(f"is of another architecture: {_in_words(missing, unknown, other)}")
            for name, new in average.weights.items():
                own[name].copy_(new)
        self._updates = average.updates
        if self._updates is None:
            self._updates = max(map(_updates_below, self.decays.values())) if self.warmup else 0
        self.updates.fill_(self._updates)

    def _find_tensors(self, model: nn.Module) -> None:
        """Look for the tensors of a model and of the averages, unless they are those of the last time."""
        first = next(model.parameters(), None)
        if self._sources == [model] and self._tensors[0].is_led_by(first):
            return
        found = [_tensors(of) for of in (model, self.average, *self.further)]
        if [tensor.shape for tensor in found[0].all] != [tensor.shape for tensor in found[1].all]:
            raise ValueError("model must be of the architecture of the one that the EMA was made for")
        self._sources, self._tensors = [model], found

    def to(self, *arguments: Any, **options: Any) -> Any:
        """Move the averages, or change their type; arguments as of ``torch.nn.Module.to``.

        Raises:
            ValueError: This machine does not have the device.
        """
        if arguments and isinstance(arguments[0], str | torch.device):
            arguments = (resolve_device(arguments[0], "device"), *arguments[1:])
        if options.get("device") is not None:
            options["device"] = resolve_device(options["device"], "device")
        return super().to(*arguments, **options)

    def _apply(self, *arguments: Any, **options: Any) -> Any:
        self._sources = []  # moving to another device makes new tensors of the buffers, also of the trained ones
        return super()._apply(*arguments, **options)  # type: ignore[no-untyped-call]

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self._sources = []
        self._updates = None

    def train(self, mode: bool = True) -> EMA[ModelT]:
        """Stay in evaluation mode, whatever the trainer sets."""
        return super().train(False)


def _checked_decays(decay: float, further: Sequence[float]) -> dict[str, float]:
    """All decays by the argument that each comes from, the main one first."""
    decays = {"decay": decay} | {f"further_decays[{index}]": value for index, value in enumerate(further)}
    for name, value in decays.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name} must lie in [0, 1), got {value}")
    if len(set(decays.values())) < len(decays):
        raise ValueError(f"further_decays must differ from each other and from decay, {decay:g}, got {list(further)}")
    return decays


def _updates_below(decay: float) -> int:
    """Number of updates of a warm-up whose decay is less than ``decay``."""
    return max(0, math.ceil((10 * decay - 1) / (1 - decay)) - 1)


def _in_words(missing: list[str], unknown: list[str], other: list[str]) -> str:
    kinds = {"it lacks": missing, "the model has no": unknown, "another shape has": other}
    return ", ".join(f"{what} {names[0]}" for what, names in kinds.items() if names)


class _Tensors(NamedTuple):
    """What a model is made of: what has an average, and counters, which have none."""

    numbers: list[Tensor]
    counters: list[Tensor]
    kind: list[tuple[torch.device, torch.dtype]]

    @property
    def all(self) -> list[Tensor]:
        return [*self.numbers, *self.counters]

    def is_led_by(self, first: Tensor | None) -> bool:
        """Whether the first parameter is this one, on the device and of the type that it was of."""
        if first is None or not self.numbers:
            return first is None
        return self.numbers[0] is first and self.kind[0] == (first.device, first.dtype)


def _tensors(model: nn.Module) -> _Tensors:
    all_ = [*model.parameters(), *model.buffers()]
    numbers = [tensor for tensor in all_ if tensor.is_floating_point()]
    kind = [(tensor.device, tensor.dtype) for tensor in numbers]
    return _Tensors(numbers, [tensor for tensor in all_ if not tensor.is_floating_point()], kind)
