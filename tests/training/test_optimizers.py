from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import nn

from diffusion_lab.config.optimizer_section import OPTIMIZERS, AdamWOptions, OptimizerSettings
from diffusion_lab.training.optimizers import check_capturable, create_optimizer


class PlainDescent(torch.optim.SGD):
    """Custom optimizer, named by its dotted path."""

    def __init__(self, params: Any, lr: float, weight_decay: float, betas: Any, nesterov_like: bool = False) -> None:
        super().__init__(params, lr=lr, weight_decay=weight_decay)
        self.nesterov_like = nesterov_like


def settings(**changes: Any) -> OptimizerSettings:
    tree: dict[str, Any] = {
        "type": "adam",
        "learning_rate": 0.05,
        "weight_decay": 0.1,
        "betas": [0.8, 0.95],
        "gradient_clip_norm": None,
    }
    return OptimizerSettings.model_validate(tree | changes)


def walk(optimizer: torch.optim.Optimizer, weight: nn.Parameter) -> torch.Tensor:
    """Make ten steps on a parabola."""
    for _ in range(10):
        optimizer.zero_grad()
        (weight**2).sum().backward()
        optimizer.step()
    return weight.detach()


def start() -> nn.Parameter:
    return nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))


@pytest.mark.parametrize(("name", "reference"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_named_optimizer_makes_the_steps_of_torch(name: str, reference: type[torch.optim.Adam]) -> None:
    ours, theirs = start(), start()
    walk(create_optimizer(settings(type=name), [ours]), ours)
    walk(reference([theirs], lr=0.05, weight_decay=0.1, betas=(0.8, 0.95)), theirs)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_fused_kernel_is_used_if_available(name: str) -> None:
    elsewhere = nn.Parameter(torch.zeros(3, device="meta"))
    for weight, requested, scaled, fused in (
        (start(), None, False, True),
        (start(), False, False, False),
        (start(), None, True, False),
        (elsewhere, None, False, False),
    ):
        optimizer = create_optimizer(settings(type=name, fused=requested), [weight], scaled)
        assert optimizer.param_groups[0]["fused"] is fused


def test_fused_kernel_with_a_gradient_scaler_is_refused() -> None:
    with pytest.raises(ValueError, match=r"training\.optimizer\.fused must be off where .* fp16, got true"):
        create_optimizer(settings(fused=True), [start()], scaled=True)


def test_first_step_of_adam_is_the_learning_rate() -> None:
    """With bias correction the first update is lr · gradient / |gradient| (arXiv:1412.6980, section 2.1)."""
    weight = start()
    optimizer = create_optimizer(settings(weight_decay=0.0), [weight])
    (weight**2).sum().backward()
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.tensor([0.95, -1.95, 2.95]))


def test_options_reach_the_class() -> None:
    optimizer = create_optimizer(settings(eps=1e-3, amsgrad=True), [start()])
    assert optimizer.defaults["eps"] == 1e-3
    assert optimizer.defaults["amsgrad"] is True


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_argument_of_the_torch_class_is_a_setting(name: str) -> None:
    """When this fails for a newer torch, the new argument becomes a field of the options."""
    keys = {"params", "lr", "betas", "weight_decay"}
    cls = OptimizerSettings.class_of(name)
    assert set(inspect.signature(cls).parameters) - keys == set(OptimizerSettings.options_of(name))


@pytest.mark.parametrize("option", AdamWOptions.model_fields)
def test_each_option_reaches_the_class(option: str) -> None:
    value = 1e-3 if option == "eps" else option != "differentiable"
    (group,) = create_optimizer(settings(**{option: value}), [start()]).param_groups
    assert group[option] == value


def test_decoupled_decay_makes_adam_adamw() -> None:
    ours, theirs = start(), start()
    walk(create_optimizer(settings(decoupled_weight_decay=True), [ours]), ours)
    walk(create_optimizer(settings(type="adamw"), [theirs]), theirs)
    torch.testing.assert_close(ours, theirs)


def test_foreach_kernels_if_requested() -> None:
    (group,) = create_optimizer(settings(foreach=True), [start()]).param_groups
    assert (group["foreach"], group["fused"]) == (True, False)


def test_maximize() -> None:
    weight = start()
    assert (
        walk(create_optimizer(settings(maximize=True, weight_decay=0.0), [weight]), weight).abs() > start().abs()
    ).all()


def test_capturable_needs_a_gpu() -> None:
    asked = settings(capturable=True)
    check_capturable(asked, torch.device("cuda"))
    with pytest.raises(
        ValueError, match=r"training\.optimizer\.capturable must be false .* got true with compute.device cpu"
    ):
        check_capturable(asked, torch.device("cpu"))


def test_dotted_path_with_its_own_option() -> None:
    optimizer = create_optimizer(
        settings(type="tests.training.test_optimizers.PlainDescent", nesterov_like=True), [start()]
    )
    assert type(optimizer).__name__ == "PlainDescent"
    assert optimizer.nesterov_like  # type: ignore[attr-defined]
    assert optimizer.param_groups[0]["lr"] == 0.05


def test_class_without_betas_does_not_get_them() -> None:
    optimizer = create_optimizer(settings(type="torch.optim.SGD", momentum=0.9), [start()])
    assert optimizer.defaults["momentum"] == 0.9


@pytest.mark.parametrize("type_", ["torch.optim.SGD", "torch.optim.Adam"])
def test_error_about_an_unknown_argument_names_the_key(type_: str) -> None:
    with pytest.raises(ValueError, match=f"training.optimizer.type {type_} does not take.*momentum_of_all"):
        create_optimizer(settings(type=type_, momentum_of_all=1), [start()])


def test_path_without_a_class_names_key_and_value() -> None:
    with pytest.raises(ValueError, match=r'training.optimizer.type = "torch.optim.NoSuch": must be a class'):
        create_optimizer(settings(type="torch.optim.NoSuch"), [start()])
