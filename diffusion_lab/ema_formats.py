"""Averaged weights in the layouts in which programs save them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

NESTED = ("shadow", "shadow_params", "average", "ema_model", "state_dict", "model_state_dict")
"""Keys under which a dict of an average may hold the weights, as a dict or as a list in the order of the parameters."""

OWN_PREFIXES = ("average.", "ema_model.")
"""Of the main average in the state dict of an EMA that is a module: this project's, and that of ema_pytorch."""

UPDATE_COUNTS = ("num_updates", "updates", "n_averaged", "step", "optimization_step")
"""What programs call the number of updates."""

BESIDE = ("decay", "warmup", "initted", "collected_params", "backup", *UPDATE_COUNTS)
"""Keys beside the weights that are none."""

WRAPPERS = ("module.", "denoiser.", "module.", "network.", "module.")
"""What all names may begin with, from the outside to the inside: ``DataParallel``, this project's denoiser."""

COMPILED = "_orig_mod."
"""What ``torch.compile`` puts into names, wherever the compiled module stands."""

MOST_UPDATES = 2**62

T = TypeVar("T")


@dataclass(frozen=True)
class FoundAverage:
    """Averaged weights by their bare names; ``updates`` and ``decay`` are None where nothing tells them."""

    weights: dict[str, Tensor]
    updates: int | None = None
    decay: float | None = None


def bare_names(weights: Mapping[str, T]) -> dict[str, T]:
    """Return weights by the names that they have in the network, without those of what it was wrapped in.

    >>> bare_names({"module.network._orig_mod.enter.weight": 1})
    {'enter.weight': 1}
    """
    found = {name.replace(COMPILED, ""): weight for name, weight in weights.items()}
    for prefix in WRAPPERS:
        if found and all(name.startswith(prefix) for name in found):
            found = {name.removeprefix(prefix): weight for name, weight in found.items()}
    return found


def find_average(state: object, model: Mapping[str, Tensor]) -> FoundAverage:
    """Find the averaged weights in the state of an EMA.

    That is the state dict of this project's EMA, one of the model, a dict of name → tensor, with or without ``decay``
    and ``num_updates`` beside, or such a dict, or a list in the order of the parameters, under ``shadow`` or
    ``shadow_params``.

    Args:
        state: The state.
        model: The weights of the model, in its order.

    Raises:
        ValueError: It is none of these, in words that go on from the name of the state.
    """
    if not isinstance(state, Mapping):
        raise ValueError(f"is of type {type(state).__name__}, not a dict")
    inner = next((state[name] for name in NESTED if isinstance(state.get(name), Mapping | list | tuple)), state)
    named = inner if isinstance(inner, Mapping) else _in_order(inner, model)
    weights = _weights(named)
    for prefix in OWN_PREFIXES:
        if any(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): kept for name, kept in weights.items() if name.startswith(prefix)}
    if not weights:
        raise ValueError("holds no weights")
    return FoundAverage(bare_names(weights), *_counts(state, named))


def _weights(named: Mapping[Any, Any]) -> dict[str, Tensor]:
    found = {}
    for name, value in named.items():
        if name in BESIDE:
            continue
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(f"holds something that is no weight, {str(name)[:80]!r} of type {type(value).__name__}")
        found[name] = value
    return found


def _in_order(tensors: list[Any] | tuple[Any, ...], model: Mapping[str, Tensor]) -> dict[str, Any]:
    names = [name for name, weight in model.items() if weight.is_floating_point()]
    if len(tensors) != len(names):
        raise ValueError(f"is a list of {len(tensors)} tensors, and the model has {len(names)}")
    return dict(zip(names, tensors, strict=True))


def _counts(*states: Mapping[Any, Any]) -> tuple[int | None, float | None]:
    """The number of updates and the decay, from whichever state tells them."""
    updates = [_number(state.get(name)) for state in states for name in UPDATE_COUNTS]
    counts = [int(value) for value in updates if value is not None and 0 <= value < MOST_UPDATES]
    decays = [value for state in states if (value := _number(state.get("decay"))) is not None and 0 <= value < 1]
    return next(iter(counts), None), next(iter(decays), None)


def _number(value: object) -> float | None:
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex():
        value = float(f"{value.item():.6g}") if value.is_floating_point() else value.item()  # float32 has 7 digits
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or abs(value) > MOST_UPDATES:
        return None
    return value
