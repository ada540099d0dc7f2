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

from diffusion_lab.arguments import check_flag, is_number
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.ema.formats import ForeignAverage, bare_names, find_average
from diffusion_lab.faults import ConfigWarning
from diffusion_lab.runtime.devices import resolve_device

ModelT = TypeVar("ModelT", bound=nn.Module)


class EMA(nn.Module, Generic[ModelT]):
    """Exponential moving averages of a model's weights, each a copy of the model that is never trained.

    Args:
        model: Model whose weights are averaged; each average starts as a copy of them. The model itself is not part of
            the EMA: neither its parameters nor its ``state_dict`` contain it.
        decay: Decay of the main average, ``average``, in [0, 1).
        device: Device of the averages, such as ``cuda:1``; that of the model if None.
        warmup: Start with a smaller decay, ``(1 + n) / (10 + n)`` at update n, so that the initial weights are
            soon forgotten (the rule of TensorFlow's ExponentialMovingAverage).
        further_decays: Decays of the averages in ``further``, all different. Each average costs the memory of one copy
            of the weights.

    Raises:
        TypeError: ``model`` is not a ``torch.nn.Module``.
        ValueError: A decay is out of bounds or duplicated.

    Example:
        >>> from diffusion_lab import EMA, DiffusionSampler, create_ddpm
        >>> model = create_ddpm(image_size=8, in_channels=1, model_channels=8, channel_multipliers=[1, 2],
        ...                     use_attention=[False, True])
        >>> ema = EMA(model, decay=0.999)
        >>> ema.update()  # after each optimizer step
        >>> with ema.average_parameters():  # the model has the averaged weights inside the block
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
        check_flag("warmup", warmup)
        self.decays = _checked_decays(decay, further_decays)
        self.average: ModelT = copy.deepcopy(model).requires_grad_(False).eval()
        if isinstance(self.average, Denoiser):
            self.average.weights = "ema"
        self.further = nn.ModuleList(copy.deepcopy(self.average) for _ in further_decays)
        self.decay = decay
        self.warmup = warmup
        self.register_buffer("updates", torch.tensor(0, dtype=torch.int64))
        self._updates: int | None = None  # the same as a plain int: reading the buffer would synchronize a GPU
        # In lists, or their weights would be registered as this module's own.
        self._model: list[nn.Module] = [model]
        # Model whose tensors were collected last, and those tensors: collecting takes longer than the arithmetic.
        self._sources: list[nn.Module] = []
        self._tensors: list[_Tensors] = []
        self._trained: list[Tensor] = []  # the weights replaced by the average
        self._applied_to: list[nn.Module] = []
        if device is not None:
            self.to(resolve_device(device, "device"))

    def decay_at(self, update: int, decay: float) -> float:
        """Return the decay of update number ``update``, counted from 1, for the average with final decay ``decay``."""
        return min(decay, (1 + update) / (10 + update)) if self.warmup else decay

    def initial_weight(self, updates: int, decay: float) -> float:
        """Return the share of the initial weights left in the average with a decay after ``updates`` updates.

        While the decay rises, the factors (1 + n) / (10 + n) of the first m updates multiply to
        10! / ((m + 2) ⋯ (m + 10)); the rest is a power.
        """
        rising = min(updates, _updates_below(decay)) if self.warmup else 0
        risen = math.prod(factor / (rising + factor) for factor in range(2, 11))
        return risen * decay ** (updates - rising)

    @torch.no_grad()
    def update(self, model: nn.Module | None = None) -> None:
        """Update the averages: ``average ← decay · average + (1 − decay) · weights``, for each decay.

        Args:
            model: Model with the current weights; the one passed to the constructor if None.

        Raises:
            RuntimeError: The model currently has the averaged weights, by ``apply_shadow``.
            ValueError: The model has another architecture.
        """
        model = self._model[0] if model is None else model
        if self._applied_to == [model]:
            raise RuntimeError("update needs the trained weights, and the model has the averaged ones: call restore()")
        self._find_tensors(model)
        self._updates = int(self.updates) + 1 if self._updates is None else self._updates + 1
        self.updates += 1
        weights, *averages = self._tensors
        for average, decay in zip(averages, self.decays.values(), strict=True):
            current = weights.floats
            if weights.kind != average.kind:
                current = [new.to(old.device, old.dtype) for new, old in zip(current, average.floats, strict=True)]
            torch._foreach_lerp_(average.floats, current, 1 - self.decay_at(self._updates, decay))
            for old, new in zip(average.counters, weights.counters, strict=True):  # copied, not averaged
                old.copy_(new)

    @torch.no_grad()
    def apply_shadow(self, model: nn.Module | None = None) -> None:
        """Copy the weights of the main average into a model, until ``restore`` puts its own back.

        Args:
            model: The model; the one passed to the constructor if None.

        Raises:
            RuntimeError: They are already applied.
            ValueError: The model has another architecture.
        """
        if self._applied_to:
            raise RuntimeError("the averaged weights are already applied: call restore() before apply_shadow()")
        model = self._model[0] if model is None else model
        self._find_tensors(model)
        weights, average = self._tensors[:2]
        self._trained, self._applied_to = [tensor.clone() for tensor in weights.all], [model]
        for weight, averaged in zip(weights.all, average.all, strict=True):
            weight.copy_(averaged)

    @torch.no_grad()
    def restore(self, model: nn.Module | None = None) -> None:
        """Restore, bitwise, the weights that a model had before ``apply_shadow``.

        Raises:
            RuntimeError: No averaged weights are applied, or they are applied to another model.
        """
        if not self._applied_to or model not in (None, *self._applied_to):
            which = " for this model" if self._applied_to else ""
            raise RuntimeError(f"restore() needs an apply_shadow() before it, which was not called{which}")
        (applied,) = self._applied_to
        for weight, trained in zip(_tensors(applied).all, self._trained, strict=True):
            weight.copy_(trained)
        self._trained, self._applied_to = [], []

    @contextmanager
    def average_parameters(self, model: nn.Module | None = None) -> Iterator[None]:
        """Give a model the weights of the main average inside a ``with`` block; arguments as in ``apply_shadow``."""
        self.apply_shadow(model)
        try:
            yield
        finally:
            self.restore(model)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> _IncompatibleKeys:
        """Load a ``state_dict`` of an EMA, or averages saved by another program.

        The latter are a state dict of the model, or a dict of name → tensor, alone or under ``shadow``, with or without
        ``decay`` and ``num_updates``. All averages then start with these weights. The decay stays that of this EMA.

        Raises:
            ValueError: It holds no averages, or those of another architecture.

        Warns:
            ConfigWarning: The averages were computed with another decay.
        """
        if isinstance(state_dict, Mapping) and any(str(name).startswith("average.") for name in state_dict):
            try:
                incompatible: _IncompatibleKeys = super().load_state_dict(state_dict, strict, assign)
            except RuntimeError as error:
                decays = ", ".join(f"{decay:g}" for decay in self.decays.values())
                raise ValueError(
                    f"state_dict is not of an EMA of this model with {len(self.decays)} averages (of decay {decays}): "
                    f"{' '.join(str(error).split())}"
                ) from error
            return incompatible
        try:
            average = find_average(state_dict, self.average.state_dict())
            self.load_average(average)
        except ValueError as error:
            raise ValueError(f"state_dict {error}") from error
        if average.decay not in (None, self.decay):
            warnings.warn(
                f"state_dict is of an EMA of decay {average.decay:g}: this one continues with {self.decay:g}",
                ConfigWarning,
                stacklevel=2,
            )
        return _IncompatibleKeys([], [])

    @torch.no_grad()
    def load_average(self, average: ForeignAverage) -> None:
        """Start all averages from another one.

        Args:
            average: Weights by their bare names; buffers may be missing. If its number of updates is unknown, warm-up
                counts as finished, since it would forget these weights.

        Raises:
            ValueError: It belongs to another architecture. The message is a predicate, to follow the name of the state.
        """
        buffers = bare_names({name: name in dict(self.average.named_buffers()) for name in self.average.state_dict()})
        for copy_of_model in (self.average, *self.further):
            own = bare_names(copy_of_model.state_dict())
            missing = [name for name in own if name not in average.weights and not buffers[name]]
            unknown = [name for name in average.weights if name not in own]
            reshaped = [name for name, new in average.weights.items() if name in own and own[name].shape != new.shape]
            if missing or unknown or reshaped:
                raise ValueError(f"is of another architecture: {_describe_mismatch(missing, unknown, reshaped)}")
            for name, new in average.weights.items():
                own[name].copy_(new)
        self._updates = average.updates
        if self._updates is None:
            self._updates = max(map(_updates_below, self.decays.values())) if self.warmup else 0
        self.updates.fill_(self._updates)

    def _find_tensors(self, model: nn.Module) -> None:
        """Collect the tensors of a model and of the averages, unless they are those of the last call."""
        first = next(model.parameters(), None)
        if self._sources == [model] and self._tensors[0].starts_with(first):
            return
        tensors = [_tensors(source) for source in (model, self.average, *self.further)]
        if [tensor.shape for tensor in tensors[0].all] != [tensor.shape for tensor in tensors[1].all]:
            raise ValueError("model must have the architecture of the model that the EMA was created for")
        self._sources, self._tensors = [model], tensors

    def to(self, *arguments: Any, **options: Any) -> Any:
        """Move the averages, or change their dtype; arguments as in ``torch.nn.Module.to``.

        Raises:
            ValueError: This machine does not have the device.
        """
        if arguments and isinstance(arguments[0], str | torch.device):
            arguments = (resolve_device(arguments[0], "device"), *arguments[1:])
        if options.get("device") is not None:
            options["device"] = resolve_device(options["device"], "device")
        return super().to(*arguments, **options)

    def _apply(self, *arguments: Any, **options: Any) -> Any:
        self._sources = []  # moving to another device creates new buffers, also those of the trained model
        return super()._apply(*arguments, **options)  # type: ignore[no-untyped-call]

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self._sources = []
        self._updates = None

    def train(self, mode: bool = True) -> EMA[ModelT]:
        """Stay in evaluation mode, whatever mode the trainer sets."""
        return super().train(False)


def _checked_decays(decay: float, further: Sequence[float]) -> dict[str, float]:
    """Return all decays by the argument each comes from, the main one first."""
    if isinstance(further, str) or not isinstance(further, Sequence):
        raise ValueError(f"further_decays must be a list of numbers in [0, 1), got {further!r}")
    decays = {"decay": decay} | {f"further_decays[{index}]": value for index, value in enumerate(further)}
    for name, value in decays.items():
        if not is_number(value) or not 0 <= value < 1:
            raise ValueError(f"{name} must lie in [0, 1), got {value!r}")
    if len(set(decays.values())) < len(decays):
        raise ValueError(f"further_decays must differ from each other and from decay, {decay:g}, got {list(further)}")
    return decays


def _updates_below(decay: float) -> int:
    """Return the number of warm-up updates with a decay below ``decay``."""
    return max(0, math.ceil((10 * decay - 1) / (1 - decay)) - 1)


def _describe_mismatch(missing: list[str], unknown: list[str], reshaped: list[str]) -> str:
    kinds = {"it lacks": missing, "the model has no": unknown, "a different shape has": reshaped}
    return ", ".join(f"{what} {names[0]}" for what, names in kinds.items() if names)


class _Tensors(NamedTuple):
    """Tensors of a model: floating-point ones, which are averaged, and counters, which are copied."""

    floats: list[Tensor]
    counters: list[Tensor]
    kind: list[tuple[torch.device, torch.dtype]]

    @property
    def all(self) -> list[Tensor]:
        return [*self.floats, *self.counters]

    def starts_with(self, first: Tensor | None) -> bool:
        """Return whether the first tensor is this one, with unchanged device and dtype."""
        if first is None or not self.floats:
            return first is None
        return self.floats[0] is first and self.kind[0] == (first.device, first.dtype)


def _tensors(model: nn.Module) -> _Tensors:
    all_ = [*model.parameters(), *model.buffers()]
    floats = [tensor for tensor in all_ if tensor.is_floating_point()]
    kind = [(tensor.device, tensor.dtype) for tensor in floats]
    return _Tensors(floats, [tensor for tensor in all_ if not tensor.is_floating_point()], kind)
