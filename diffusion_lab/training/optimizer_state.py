"""Validation of an optimizer state dict saved by another program against the optimizer of this run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

States = dict[int, dict[str, Any]]
"""State of an optimizer for each parameter, by the parameter's number."""

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]


def matching_states(saved: object, make_optimizer: MakeOptimizer, parameters: Iterable[nn.Parameter]) -> States:
    """Return the states of all parameters, if they are of the same optimizer over the same parameters and order.

    Args:
        saved: ``optimizer_state_dict`` of the file.
        make_optimizer: Creates the optimizer of this run.
        parameters: Parameters of the model.

    Raises:
        ValueError: The states do not match; the message gives the reason.
    """
    if saved is None or saved == {}:
        raise ValueError("the file holds no state of it")
    match saved:
        case {"state": Mapping() as states, "param_groups": list() as groups}:
            numbers = [number for group in groups for number in _numbers(group)]
        case _:
            raise ValueError("its content is not a state dict of a torch optimizer")
    shapes = [parameter.shape for parameter in parameters]
    if len(numbers) != len(shapes) or len(set(numbers)) != len(numbers):
        raise ValueError(f"its state is of {len(numbers)} parameters, and the model has {len(shapes)}")
    if not states:
        raise ValueError("its state in the file is empty")
    expected = _state_after_one_step(make_optimizer)
    shape_of = dict(zip(numbers, shapes, strict=True))
    for number, state in states.items():
        if number not in shape_of or not isinstance(state, Mapping):
            raise ValueError("its state is damaged")
        _check_state(state, expected, shape_of[number])
    # By position: optimizers with several groups number the parameters in the order of the groups.
    return {index: dict(states[number]) for index, number in enumerate(numbers) if number in states}


def saved_rate(saved: object) -> float | None:
    """Return the learning rate of the first parameter group; None if there is none."""
    match saved:
        case {"param_groups": [{"lr": int() | float() as rate}, *_]} if not isinstance(rate, bool):
            return float(rate)
    return None


def _numbers(group: object) -> list[int]:
    match group:
        case {"params": list() as numbers} if all(type(number) is int for number in numbers):
            return numbers
    raise ValueError("its parameter groups are damaged")


def _state_after_one_step(make_optimizer: MakeOptimizer) -> dict[str, Any]:
    """Return the state of a parameter in the optimizer of this run, determined by a step on one of two elements."""
    parameter = nn.Parameter(torch.zeros(2))
    optimizer = make_optimizer([parameter])
    parameter.grad = torch.ones(2)
    try:
        optimizer.step()
    except Exception as error:  # a custom class may require anything
        raise ValueError(f"the optimizer of this run cannot be compared with it ({error})") from error
    return dict(optimizer.state[parameter])


def _check_state(state: Mapping[Any, Any], expected: Mapping[str, Any], shape: torch.Size) -> None:
    if set(state) != set(expected):
        saved, own = (", ".join(sorted(map(str, names))) or "nothing" for names in (state, expected))
        raise ValueError(f"it is of another kind: it keeps {saved[:200]} for each parameter, this one {own}")
    for name, value in state.items():
        scalar = not isinstance(expected[name], Tensor) or expected[name].ndim == 0
        if expected[name] is None or value is None:
            fits = value is expected[name] is None
        elif scalar:
            fits = _is_count(value)
        else:
            fits = isinstance(value, Tensor) and value.shape == shape and _is_finite(value)
        if not fits:
            raise ValueError(f"its {name} does not fit a parameter of shape {tuple(shape)}, or is not finite")


def _is_count(value: object) -> bool:
    if isinstance(value, Tensor):
        value = value.item() if value.numel() == 1 and not value.is_complex() else None
    return isinstance(value, int | float) and math.isfinite(value) and value >= 0


def _is_finite(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and bool(tensor.isfinite().all())
