"""Validation of optimizer states saved by another program."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from diffusion_lab.training.optimizer_state import MakeOptimizer, matching_states, saved_rate

MAKERS: dict[str, MakeOptimizer] = {
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.1),
    "amsgrad": lambda parameters: torch.optim.AdamW(parameters, lr=0.1, amsgrad=True),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, lr=0.1, centered=True),
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def trained(maker: str, groups: int = 1) -> tuple[nn.Module, dict[str, Any]]:
    """Return a network after two steps and its optimizer state, with the parameters in one or two groups."""
    model = network()
    parameters: Any = list(model.parameters())
    if groups == 2:
        parameters = [{"params": parameters[:1]}, {"params": parameters[1:]}]
    optimizer = MAKERS[maker](parameters)
    for _ in range(2):
        model(torch.ones(2, 3)).square().mean().backward()
        optimizer.step()
    return model, optimizer.state_dict()


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("maker", MAKERS)
def test_next_step_equals_that_of_the_other_program(maker: str, groups: int) -> None:
    model, state = trained(maker, groups)
    expected, continued = copy.deepcopy(model), copy.deepcopy(model)
    theirs = MAKERS[maker](expected.parameters())
    theirs.load_state_dict({**theirs.state_dict(), "state": copy.deepcopy(state["state"])})
    ours = MAKERS[maker](continued.parameters())
    states = matching_states(copy.deepcopy(state), MAKERS[maker], continued.parameters())
    ours.load_state_dict({"state": states, "param_groups": ours.state_dict()["param_groups"]})
    for each, optimizer in ((expected, theirs), (continued, ours)):
        optimizer.zero_grad()
        each(torch.ones(2, 3)).sum().backward()
        optimizer.step()
    for one, other in zip(expected.parameters(), continued.parameters(), strict=True):
        assert torch.equal(one, other)


def without_parameter(state: dict[str, Any]) -> None:
    state["param_groups"][0]["params"].pop()


def of_another_shape(state: dict[str, Any]) -> None:
    state["state"][0]["exp_avg"] = torch.zeros(4, 4)


def swapped(state: dict[str, Any]) -> None:
    state["state"][0], state["state"][2] = state["state"][2], state["state"][0]


def with_nan(state: dict[str, Any]) -> None:
    state["state"][1]["exp_avg_sq"][0] = float("nan")


def negative_step(state: dict[str, Any]) -> None:
    state["state"][1]["step"] = torch.tensor(-1.0)


def incomplete(state: dict[str, Any]) -> None:
    del state["state"][3]["exp_avg"]


def foreign_number(state: dict[str, Any]) -> None:
    state["state"]["a"] = state["state"].pop(0)


def no_numbers(state: dict[str, Any]) -> None:
    state["param_groups"] = [{"params": "all"}]


def emptied(state: dict[str, Any]) -> None:
    state["state"] = {}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (without_parameter, "is of 3 parameters, and the model has 4"),
        (of_another_shape, r"its exp_avg does not fit a parameter of shape \(4, 3\)"),
        (swapped, "its exp_avg does not fit a parameter of shape"),
        (with_nan, r"its exp_avg_sq does not fit a parameter of shape \(4,\), or is not finite"),
        (negative_step, "its step does not fit"),
        (incomplete, "it keeps exp_avg_sq, step for each parameter, this one exp_avg, exp_avg_sq, step"),
        (foreign_number, "its state is damaged"),
        (no_numbers, "its parameter groups are damaged"),
        (emptied, "its state in the file is empty"),
    ],
)
def test_mismatched_state_is_refused_with_the_reason(change: Callable[[dict[str, Any]], None], reason: str) -> None:
    model, state = trained("adam")
    state = copy.deepcopy(state)
    change(state)
    with pytest.raises(ValueError, match=reason):
        matching_states(state, MAKERS["adam"], model.parameters())


@pytest.mark.parametrize("other", ["amsgrad", "sgd", "rmsprop"])
def test_the_state_of_another_optimizer_is_refused(other: str) -> None:
    model, state = trained(other)
    with pytest.raises(ValueError, match="it is of another kind: it keeps "):
        matching_states(state, MAKERS["adam"], model.parameters())


@pytest.mark.parametrize("saved", [None, {}, [], "x", {"state": {}}, {"state": [], "param_groups": []}], ids=str)
def test_invalid_state_is_refused(saved: object) -> None:
    with pytest.raises(ValueError, match=r"holds no state of it|not a state dict of a torch optimizer"):
        matching_states(saved, MAKERS["adam"], network().parameters())
    assert saved_rate(saved) is None


def test_learning_rate_of_the_file_is_returned() -> None:
    assert saved_rate(trained("adam")[1]) == 0.1
