from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, ReduceLROnPlateau, StepLR

from diffusion_lab.config.scheduler_section import SCHEDULES, SchedulerSettings
from diffusion_lab.training.lr_schedules import create_schedule, current_rates

PEAK = 0.2


def optimizer() -> SGD:
    return SGD([nn.Parameter(torch.zeros(1))], lr=PEAK)


def entry_of(type_: str | None, optimized: Optimizer, total_steps: int = 30, **options: Any) -> dict[str, Any]:
    entry = create_schedule(type_, options, optimized, total_steps, metric="val/loss")
    assert entry is not None
    return entry


def rates(schedule: Any, optimized: Optimizer, moves: int, *metrics: float) -> list[float]:
    """Return the learning rate at the start and after each step of the schedule."""
    actual = [optimized.param_groups[0]["lr"]]
    for move in range(moves):
        optimized.step()
        schedule.step(*metrics[move : move + 1])
        actual.append(optimized.param_groups[0]["lr"])
    return actual


def test_no_schedule() -> None:
    assert create_schedule(None, {}, optimizer(), 30, "val/loss") is None


@pytest.mark.parametrize(
    ("type_", "reference", "options"),
    [
        ("cosine", CosineAnnealingLR, {"T_max": 10, "eta_min": 0.01}),
        ("step", StepLR, {"step_size": 3, "gamma": 0.5}),
        ("torch.optim.lr_scheduler.ExponentialLR", ExponentialLR, {"gamma": 0.9}),
    ],
)
def test_schedule_by_epochs_equals_that_of_torch(type_: str, reference: Any, options: dict[str, Any]) -> None:
    ours, theirs = optimizer(), optimizer()
    entry = entry_of(type_, ours, **options)
    assert entry["interval"] == "epoch"
    expected = rates(reference(theirs, **options), theirs, 13)  # cosine rises again beyond T_max
    assert rates(entry["scheduler"], ours, 13) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("type_", "reference"), [("cosine", CosineAnnealingLR), ("step", StepLR), ("plateau", ReduceLROnPlateau)]
)
def test_every_argument_of_the_torch_class_is_a_setting(type_: str, reference: type) -> None:
    """When this fails for a newer torch, the new argument becomes a field of the options."""
    expected = set(inspect.signature(reference).parameters) - {"optimizer"}
    assert set(SchedulerSettings.options_of(type_)) == expected
    assert set(inspect.signature(SchedulerSettings.class_of(type_)).parameters) >= expected


@pytest.mark.parametrize(
    ("type_", "options"), [("cosine", {"T_max": 10, "eta_min": 0.01}), ("step", {"step_size": 3, "gamma": 0.5})]
)
def test_a_schedule_with_last_epoch(type_: str, options: dict[str, Any]) -> None:
    """After ``last_epoch`` the rates are those of the complete schedule from there on."""
    ours, whole = optimizer(), optimizer()
    expected = rates(entry_of(type_, whole, **options)["scheduler"], whole, 9)
    actual = rates(entry_of(type_, ours, **options, last_epoch=3)["scheduler"], ours, 5)
    assert actual == pytest.approx(expected[4:], rel=1e-9)


def test_a_torch_schedule_with_last_epoch() -> None:
    optimized = optimizer()
    schedule = entry_of("torch.optim.lr_scheduler.StepLR", optimized, step_size=3, gamma=0.5, last_epoch=3)["scheduler"]
    assert schedule.last_epoch == 4
    assert rates(schedule, optimized, 2) == pytest.approx([PEAK, PEAK, PEAK / 2])


def test_options_of_plateau_reach_the_class() -> None:
    options = {"threshold": 0.5, "threshold_mode": "abs", "cooldown": 2, "min_lr": 0.05, "eps": 1e-3}
    optimized = optimizer()
    schedule = entry_of("plateau", optimized, **options, patience=0, factor=0.1)["scheduler"]
    assert {name: vars(schedule)[name] for name in ("threshold", "threshold_mode", "cooldown", "eps")} == {
        name: options[name] for name in ("threshold", "threshold_mode", "cooldown", "eps")
    }
    # progress of 0.4 is less than the threshold; the drop ends at the floor, and the next two are not counted
    assert rates(schedule, optimized, 5, 2.0, 1.6, 1.6, 1.6, 1.6) == pytest.approx([PEAK, PEAK, *[0.05] * 4])


def test_cosine_at_its_ends_and_in_the_middle() -> None:
    optimized = optimizer()
    actual = rates(entry_of("cosine", optimized, T_max=8, eta_min=0.02)["scheduler"], optimized, 8)
    assert (actual[0], actual[4], actual[8]) == pytest.approx((PEAK, (PEAK + 0.02) / 2, 0.02))


def test_plateau_is_that_of_torch_and_stepped_by_the_module() -> None:
    ours, theirs = optimizer(), optimizer()
    options = {"mode": "min", "factor": 0.5, "patience": 1}
    losses = [1.0, 0.9, 0.95, 0.95, 0.95, 0.8, 0.81, 0.82]
    entry = entry_of("plateau", ours, **options)
    actual = rates(entry["scheduler"], ours, 8, *losses)
    assert actual == rates(ReduceLROnPlateau(theirs, **options), theirs, 8, *losses)
    assert actual[-1] < PEAK
    assert entry["monitor"] == "val/loss"
    assert all(epoch % entry["frequency"] for epoch in range(1, 1000))


def test_warmup_cosine_in_closed_form() -> None:
    optimized = optimizer()
    entry = entry_of("warmup_cosine", optimized, 30, warmup_steps=9, eta_min=0.01)
    assert entry["interval"] == "step"
    actual = rates(entry["scheduler"], optimized, 35)
    assert actual[:9] == pytest.approx([PEAK * (step + 1) / 10 for step in range(9)])
    assert actual[9] == pytest.approx(PEAK)
    falling = [0.01 + (PEAK - 0.01) * (1 + math.cos(math.pi * step / 21)) / 2 for step in range(22)]
    assert actual[9:31] == pytest.approx(falling)
    assert actual[30:] == pytest.approx([0.01] * 6)


def test_warmup_longer_than_the_run_only_rises() -> None:
    optimized = optimizer()
    actual = rates(entry_of("warmup_cosine", optimized, 5, warmup_steps=9)["scheduler"], optimized, 5)
    assert actual == pytest.approx([PEAK * (step + 1) / 10 for step in range(6)])


@pytest.mark.parametrize("type_", ["cosine", "step", "warmup_cosine", "plateau"])
def test_current_rates_are_those_of_the_optimizer(type_: str) -> None:
    options: dict[str, dict[str, Any]] = {"cosine": {"T_max": 5}, "step": {"step_size": 2}}
    optimized = optimizer()
    schedule = entry_of(type_, optimized, **options.get(type_, {}))["scheduler"]
    for _ in range(4):
        assert current_rates(schedule) == [optimized.param_groups[0]["lr"]]  # bitwise: resuming sets them
        optimized.step()
        schedule.step(*([1.0] if type_ == "plateau" else []))


@pytest.mark.parametrize("type_", [*filter(None, SCHEDULES), "torch.optim.lr_scheduler.ExponentialLR"])
def test_error_about_an_unknown_argument_names_the_key(type_: str) -> None:
    with pytest.raises(ValueError, match=f"training.scheduler.type {type_} does not take.*bounce"):
        entry_of(type_, optimizer(), bounce=3)


def test_path_without_a_class_names_key_and_value() -> None:
    with pytest.raises(ValueError, match=r'training.scheduler.type = "torch.optim.NoSuch": must be a class'):
        entry_of("torch.optim.NoSuch", optimizer())
