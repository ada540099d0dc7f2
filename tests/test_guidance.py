"""Guidance against its formula, and its cost."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from diffusion_lab.create import create_ddpm
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.diffusion.level import Level
from diffusion_lab.diffusion.parameterization import PredictClean
from diffusion_lab.diffusion.schedules import DiscreteSchedule, linear_betas
from diffusion_lab.guidance import Guidance, guided

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


@pytest.mark.parametrize("scale", [None, 0.0, 1.0])
@torch.no_grad()
def test_guidance_off_is_bitwise_the_conditional_model_in_one_pass(model, passes, scale):
    noisy, label = torch.randn(5, 1, 8, 8), torch.tensor([0, 1, 2, 1, 0])
    expected = model(noisy, LEVEL, label)
    passes.clear()
    assert torch.equal(guided(model, scale)(noisy, LEVEL, label), expected)
    assert passes == [5]


@pytest.mark.parametrize("scale", [1e-6, 0.25, 0.5, 0.999, 1.5, 2.0, 7.0])
@torch.no_grad()
def test_guidance_is_the_formula_in_one_pass_of_twice_the_batch(model, passes, scale):
    """arXiv:2207.12598, equation 6, with w = scale - 1."""
    noisy, label = torch.randn(5, 1, 8, 8), torch.tensor([0, 1, 2, 1, 0])
    conditional, unconditional = model(noisy, LEVEL, label), model(noisy, LEVEL, None)
    passes.clear()
    estimate = guided(model, scale)(noisy, LEVEL, label)
    assert passes == [10]
    expected = (1 + (scale - 1)) * conditional - (scale - 1) * unconditional
    torch.testing.assert_close(estimate, expected, rtol=1e-4, atol=1e-5)
    assert (estimate - conditional).abs().max() > 1e-3 * abs(scale - 1)
    between = torch.minimum(conditional, unconditional) - 1e-5, torch.maximum(conditional, unconditional) + 1e-5
    assert bool(((estimate >= between[0]) & (estimate <= between[1])).all()) == (scale < 1)


@pytest.mark.parametrize("scale", [-1.0, -1e-9, math.nan, math.inf, torch.tensor([1.0, math.nan, 1, 1, 1])], ids=str)
def test_invalid_scale_is_refused(scale):
    with pytest.raises(ValueError, match=r"guidance_scale must be a finite number ≥ 0 .*, got "):
        guided(alone(), scale)


@torch.no_grad()
def test_guidance_without_labels_has_no_effect(model, passes):
    noisy = torch.randn(5, 1, 8, 8)
    expected = model(noisy, LEVEL, None)
    passes.clear()
    assert torch.equal(guided(model, 3.0)(noisy, LEVEL, None), expected)
    assert passes == [5]


def test_an_unconditional_model_ignores_the_scale():
    model = trained()
    assert guided(model, 5.0) is model


class Tint(nn.Module):
    """Multiplies by a number for each label; what it makes of an image does not depend on the rest of the batch."""

    def forward(self, images, times, labels):
        return images * torch.tensor([0.9, 0.7, 1.3, 0.4])[labels].view(-1, 1, 1, 1)  # the last one: no label


def alone(network=None):
    schedule = DiscreteSchedule(linear_betas(10, 0.01, 0.2))
    return Denoiser(network or Tint(), schedule, PredictClean(), (1, 8, 8), num_classes=3)


NOISY, LABEL = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 1, 0])
SCALES = torch.tensor([0.0, 1.0, 1.5, 3.0, 0.0])
WEIGHTS = torch.tensor([1.0, 1.0, 1.5, 3.0, 1.0])
"""Factors of the conditional estimates by these scales, of which 0 switches guidance off."""


@torch.no_grad()
def test_each_image_can_have_its_own_scale(model, passes):
    conditional, unconditional = model(NOISY, LEVEL, LABEL), model(NOISY, LEVEL, None)
    passes.clear()
    estimate = guided(model, SCALES)(NOISY, LEVEL, LABEL)
    assert passes == [7]  # the unconditional estimate is made of the two images that need it
    weight = WEIGHTS.view(-1, 1, 1, 1)
    expected = unconditional + weight * (conditional - unconditional)
    torch.testing.assert_close(estimate, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("guidance", [Guidance(), Guidance(rescale=0.7)], ids=str)
def test_image_of_scale_zero_or_one_is_bitwise_conditional_in_a_mixed_batch(guidance):
    model = alone()
    conditional = model(NOISY, LEVEL, LABEL)
    estimate = guided(model, SCALES, guidance)(NOISY, LEVEL, LABEL)
    same = [torch.equal(one, other) for one, other in zip(estimate, conditional, strict=True)]
    assert same == [True, True, False, False, True]


@pytest.mark.parametrize("scale", [2.0, 7.0])
def test_one_scale_is_that_scale_for_each_image(scale):
    one, each = (guided(alone(), given)(NOISY, LEVEL, LABEL) for given in (scale, torch.full((5,), scale)))
    assert torch.equal(one, each)


def test_scales_of_zero_and_one_need_no_guidance():
    model = alone()
    assert guided(model, torch.tensor([0.0, 1.0, 1.0])) is model


def test_a_wrong_number_of_scales_is_refused():
    with pytest.raises(ValueError, match="one scale, or one for each of 5 images, got 3"):
        guided(alone(), torch.tensor([1.0, 2.0, 3.0]))(NOISY, LEVEL, LABEL)


@pytest.mark.parametrize(
    ("alpha", "sigma", "inside"),
    [
        (0.5, 0.125, False),  # 0.25, the open end
        (0.5, 0.1250001, True),
        (0.5, 1.0, True),  # 2, the closed end
        (0.5, 1.0000001, False),
        (1.0, 0.5, True),
        (1.0, 80.0, False),
        (0.0, 1.0, False),  # noise alone
    ],
)
@torch.no_grad()
def test_the_interval_is_open_below_and_closed_above(model, passes, alpha, sigma, inside):
    """arXiv:2404.07724, equation 6, for the noise-to-signal ratio."""
    level, stub = Level(alpha, sigma, 0.5), alone()
    estimates = [guided(stub, 3.0, way)(NOISY, level, LABEL) for way in (Guidance(), Guidance(interval=(0.25, 2.0)))]
    assert torch.equal(estimates[1], estimates[0] if inside else stub(NOISY, level, LABEL))
    if alpha:
        guided(model, 3.0, Guidance(interval=(0.25, 2.0)))(NOISY, level, LABEL)
        assert passes == [10 if inside else 5]


@pytest.mark.parametrize("share", [0.3, 0.7, 1.0])
@torch.no_grad()
def test_rescaling_pulls_the_contrast_back(model, share):
    """arXiv:2305.08891, equations 15 and 16."""
    conditional, plain = model(NOISY, LEVEL, LABEL), guided(model, 7.5)(NOISY, LEVEL, LABEL)
    estimate = guided(model, 7.5, Guidance(rescale=share))(NOISY, LEVEL, LABEL)
    for found, usual, strong in zip(estimate, conditional, plain, strict=True):
        pulled = strong * (usual.numpy().std() / strong.numpy().std())
        torch.testing.assert_close(found, share * pulled + (1 - share) * strong, rtol=1e-4, atol=1e-5)
        if share == 1:
            assert found.std().item() == pytest.approx(usual.std().item(), rel=1e-4)


def test_an_estimate_without_contrast_stays_finite():
    """An untrained network that predicts the clean image has such an estimate."""

    class Black(nn.Module):
        def forward(self, images, times, labels):
            return torch.zeros_like(images)

    assert guided(alone(Black()), 3.0, Guidance(rescale=0.7))(NOISY, LEVEL, LABEL).abs().max() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"interval": (2.0, 1.0)},
            r"^interval must be two numbers, 0 ≤ low < high, or None, got \(2\.0, 1\.0\)",
        ),
        ({"interval": (1.0, 1.0)}, r"^interval .* got \(1\.0, 1\.0\)"),
        ({"interval": (-1.0, 1.0)}, r"^interval .* got \(-1\.0, 1\.0\)"),
        ({"interval": 2.0}, r"^interval .* got 2\.0"),
        ({"interval": (1.0, "2")}, r"^interval .* got \(1\.0, '2'\)"),
        ({"rescale": "half"}, r"^rescale must lie in \[0, 1\], got 'half'"),
        ({"rescale": 1.1}, r"^rescale must lie in \[0, 1\], got 1\.1"),
        ({"rescale": -0.1}, r"^rescale must lie in \[0, 1\], got -0\.1"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Guidance(**options)
