"""Penalties against torch's losses and their formula, with gradients."""

from __future__ import annotations

import pytest
import torch

from diffusion_lab.diffusion.penalty import AbsoluteError, HuberError, SquaredError


@pytest.fixture
def pair():
    return torch.randn(2, 4, 3, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(
    ("penalty", "peer"),
    [(SquaredError(), torch.nn.functional.mse_loss), (AbsoluteError(), torch.nn.functional.l1_loss)],
)
def test_square_and_size_are_those_of_torch(penalty, peer, pair):
    output, target = pair
    torch.testing.assert_close(penalty(output, target), peer(output, target, reduction="none"))


@pytest.mark.parametrize("delta", [0.01, 0.1, 1.0])
def test_huber_is_the_pseudo_huber_of_its_paper(delta, pair):
    """arXiv:2310.14189, equation 7, sqrt(e² + c²) - c, times 2c: like e² below c, like 2c|e| above."""
    output, target = pair
    error = output - target
    cost = HuberError(delta)(output, target)
    torch.testing.assert_close(cost, 2 * delta * ((error**2 + delta**2).sqrt() - delta))
    small, large = torch.tensor([1e-3 * delta, 1e3 * delta], dtype=torch.float64)
    zero = torch.zeros((), dtype=torch.float64)
    assert HuberError(delta)(small, zero).item() == pytest.approx(small.item() ** 2, rel=1e-5)
    assert HuberError(delta)(large, zero).item() == pytest.approx(2 * delta * large.item(), rel=2e-3)


def test_the_gradient_of_huber_is_the_one_by_hand(pair):
    """d cost / d output = 2 c e / sqrt(e² + c²), which never exceeds 2c."""
    output, target = pair
    output.requires_grad_()
    HuberError(0.1)(output, target).sum().backward()
    error = (output - target).detach()
    torch.testing.assert_close(output.grad, 0.2 * error / (error**2 + 0.01).sqrt())
