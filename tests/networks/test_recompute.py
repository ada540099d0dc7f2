"""Recomputed activations: less memory, the same numbers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from tests.networks.small_networks import SMALL, with_random_outputs


def step(network: torch.nn.Module, autocast: bool = False) -> tuple[int, list[Tensor]]:
    """Return the bytes that the forward pass keeps for the gradient, besides the weights, and the gradient."""
    weights = {weight.untyped_storage().data_ptr() for weight in network.parameters()}
    kept: dict[int, Tensor] = {}  # alive, so that no address is taken twice

    def keep(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in weights:
            kept[address] = tensor
        return tensor

    torch.manual_seed(5)
    images, time, label = torch.randn(4, 1, 16, 16), torch.rand(4), torch.arange(4) % 3
    torch.manual_seed(6)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        output = network(images, time, label)
    torch.rand(1)  # what draws in between changes nothing
    output.float().square().mean().backward()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()), [
        weight.grad for weight in network.parameters()
    ]


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("name", SMALL)
def test_gradients_are_equal_with_half_the_memory(name, dropout, autocast):
    usual = with_random_outputs(SMALL[name](num_classes=3, dropout=dropout))
    frugal = copy.deepcopy(usual)
    frugal.recompute_activations()
    (much, expected), (little, found) = step(usual, autocast), step(frugal, autocast)
    assert little <= much / 2
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))


@pytest.mark.parametrize("name", SMALL)
def test_nothing_is_recomputed_without_gradients(name):
    network = with_random_outputs(SMALL[name]())
    network.recompute_activations()
    calls = []
    network.enter.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        assert not network(torch.randn(2, 1, 8, 8), torch.rand(2)).requires_grad
    assert len(calls) == 1
