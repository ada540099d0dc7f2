"""Layouts in which programs save averaged weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

NESTED = ("shadow", "shadow_params", "average", "ema_model", "state_dict", "model_state_dict")
"""Keys that may hold the weights of an average, as a dict or as a list in the order of the parameters."""

OWN_PREFIXES = ("average.", "ema_model.")
"""Prefixes of the main average in the state dict of an EMA module: this project's and that of ema_pytorch."""

UPDATE_COUNTS = ("num_updates", "updates", "n_averaged", "step", "optimization_step")
"""Keys that programs use for the number of updates."""

OTHER_KEYS = ("decay", "warmup", "initted", "collected_params", "backup", *UPDATE_COUNTS)
"""Keys next to the weights that are not weights."""

WRAPPERS = ("module.", "denoiser.", "module.", "network.", "module.")
"""Possible prefixes of all names, outermost first: ``DataParallel``, this project's denoiser."""

COMPILED = "_orig_mod."
"""Part of names added by ``torch.compile``, at any depth."""

MAX_UPDATES = 2**62

T = TypeVar("T")


@dataclass(frozen=True)
class ForeignAverage:
    """Averaged weights by their bare names; ``updates`` and ``decay`` are None if unknown."""

    weights: dict[str, Tensor]
    updates: int | None = None
    decay: float | None = None


def bare_names(weights: Mapping[str, T]) -> dict[str, T]:
    """Return weights by their names in the network, without the prefixes of its wrappers.

    >>> bare_names({"module.network._orig_mod.enter.weight": 1})
    {'enter.weight': 1}
    """
    bare = {name.replace(COMPILED, ""): weight for name, weight in weights.items()}
    for prefix in WRAPPERS:
        if bare and all(name.startswith(prefix) for name in bare):
            bare = {name.removeprefix(prefix): weight for name, weight in bare.items()}
    return bare


def find_average(state: object, model: Mapping[str, Tensor]) -> ForeignAverage:
    """Find the averaged weights in the state of an EMA.

    The state is a state dict of this project's EMA or of the model, a dict of name → tensor, with or without ``decay``
    and ``num_updates``, or such a dict, or a list in the order of the parameters, under ``shadow`` or
    ``shadow_params``.

    Args:
        state: The state.
        model: The weights of the model, in its order.

    Raises:
        ValueError: It is none of these. The message is a predicate, to follow the name of the state.
    """
    if not isinstance(state, Mapping):
        raise ValueError(f"is of type {type(state).__name__}, not a dict")
    inner = next((state[name] for name in NESTED if isinstance(state.get(name), Mapping | list | tuple)), state)
    named = inner if isinstance(inner, Mapping) else _name_in_order(inner, model)
    weights = _weights(named)
    for prefix in OWN_PREFIXES:
        if any(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}
    if not weights:
        raise ValueError("holds no weights")
    return ForeignAverage(bare_names(weights), *_counts(state, named))


def _weights(named: Mapping[Any, Any]) -> dict[str, Tensor]:
    weights = {}
    for name, value in named.items():
        if name in OTHER_KEYS:
            continue
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(f"holds something other than weights, {str(name)[:80]!r} of type {type(value).__name__}")
        weights[name] = value
    return weights


def _name_in_order(tensors: list[Any] | tuple[Any, ...], model: Mapping[str, Tensor]) -> dict[str, Any]:
    names = [name for name, weight in model.items() if weight.is_floating_point()]
    if len(tensors) != len(names):
        raise ValueError(f"is a list of {len(tensors)} tensors, and the model has {len(names)}")
    return dict(zip(names, tensors, strict=True))


def _counts(*states: Mapping[Any, Any]) -> tuple[int | None, float | None]:
    """Return the number of updates and the decay, from the first state that has them."""
    updates = [_number(state.get(name)) for state in states for name in UPDATE_COUNTS]
    counts = [int(value) for value in updates if value is not None and 0 <= value < MAX_UPDATES]
    decays = [value for state in states if (value := _number(state.get("decay"))) is not None and 0 <= value < 1]
    return next(iter(counts), None), next(iter(decays), None)


def _number(value: object) -> float | None:
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex():
        value = float(f"{value.item():.6g}") if value.is_floating_point() else value.item()  # float32 has 7 digits
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or abs(value) > MAX_UPDATES:
        return None
    return value
