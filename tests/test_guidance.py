"""Guidance against its formula, and what it costs."""

from __future__ import annotations

import pytest
import torch

from diffusion_lab.create import create_ddpm
from diffusion_lab.diffusion.level import Level
from diffusion_lab.guidance import guided

LEVEL = Level(0.6, 0.8, 0.5)


@pytest.fixture(scope="module")
def model():
    return trained(num_classes=3)


@pytest.fixture
def passes(model, monkeypatch):
    """The batch sizes of the forward passes."""
    sizes = []
    forward = model.network.forward
    monkeypatch.setattr(model.network, "forward", lambda *given: sizes.append(len(given[0])) or forward(*given))
    return sizes


def trained(**options):
    """A tiny denoiser whose output is not zero."""
    torch.manual_seed(0)
    settings = {"image_size": 8, "in_channels": 1, "model_channels": 8, "num_res_blocks": 1, "num_timesteps": 20}
    model = create_ddpm(**settings, channel_multipliers=[1, 2], use_attention=[False, True], **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0])
@torch.no_grad()
def test_up_to_scale_one_it_is_bitwise_the_conditional_model_in_one_pass(model, passes, scale):
    noisy, label = torch.randn(5, 1, 8, 8), torch.tensor([0, 1, 2, 1, 0])
    expected = model(noisy, LEVEL, label)
    passes.clear()
    assert torch.equal(guided(model, scale)(noisy, LEVEL, label), expected)
    assert passes == [5]


@pytest.mark.parametrize("scale", [1.5, 2.0, 7.0])
@torch.no_grad()
def test_above_one_it_is_the_formula_in_one_pass_of_twice_the_batch(model, passes, scale):
    """arXiv:2207.12598, equation 6, with w = scale - 1."""
    noisy, label = torch.randn(5, 1, 8, 8), torch.tensor([0, 1, 2, 1, 0])
    conditional, unconditional = model(noisy, LEVEL, label), model(noisy, LEVEL, None)
    passes.clear()
    estimate = guided(model, scale)(noisy, LEVEL, label)
    assert passes == [10]
    expected = (1 + (scale - 1)) * conditional - (scale - 1) * unconditional
    torch.testing.assert_close(estimate, expected, rtol=1e-4, atol=1e-5)
    assert (estimate - conditional).abs().max() > 1e-3


@torch.no_grad()
def test_without_labels_there_is_nothing_to_strengthen(model, passes):
    noisy = torch.randn(5, 1, 8, 8)
    expected = model(noisy, LEVEL, None)
    passes.clear()
    assert torch.equal(guided(model, 3.0)(noisy, LEVEL, None), expected)
    assert passes == [5]


def test_an_unconditional_model_ignores_the_scale():
    model = trained()
    assert guided(model, 5.0) is model
