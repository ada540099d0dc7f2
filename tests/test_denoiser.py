"""The denoiser: the formula around the network, and labels that are known, dropped or invalid."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from diffusion_lab.denoiser import Denoiser
from diffusion_lab.diffusion.continuous import EDMSchedule
from diffusion_lab.diffusion.level import Level
from diffusion_lab.diffusion.parameterization import PARAMETERIZATIONS
from diffusion_lab.diffusion.schedules import BETA_SCHEDULES, DiscreteSchedule


class Oracle(nn.Module):
    """Answers with what it was given, and remembers what it was asked."""

    def __init__(self, answer: torch.Tensor) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, images, time, label):
        self.images, self.time, self.label = images, time, label
        return self.answer.to(images.dtype)


def denoiser_of(network, prediction="v", num_classes=None, betas="cosine"):
    schedule = DiscreteSchedule(BETA_SCHEDULES[betas](1000, 1e-4, 0.02))
    return Denoiser(network, schedule, PARAMETERIZATIONS[prediction](), (1, 4, 4), num_classes)


@pytest.mark.parametrize("betas", BETA_SCHEDULES)
@pytest.mark.parametrize("prediction", PARAMETERIZATIONS)
def test_a_network_that_outputs_its_target_denoises_perfectly_at_every_level(prediction, betas):
    """Computed in float32: a nearly vanished image has fewer digits, by the factor of alpha."""
    generator = torch.Generator().manual_seed(0)
    steps = torch.cat([torch.tensor([1, 2, 999, 1000]), torch.randint(1, 1001, (60,), generator=generator)])
    clean = torch.rand(64, 1, 4, 4, generator=generator) * 2 - 1
    noise = torch.randn(64, 1, 4, 4, generator=generator)
    model = denoiser_of(Oracle(clean), prediction, betas=betas)
    level = model.schedule.levels(steps.double() / 1000)
    column = [values.float()[:, None, None, None] for values in (level.alpha, level.sigma)]
    clean_share, noise_share = (share.float()[:, None, None, None] for share in model.parameterization.target(level))
    model.network.answer = clean_share * clean + noise_share * noise
    error = (model(column[0] * clean + column[1] * noise, level) - clean).abs() * column[0]
    assert error.max() < 2e-6


@pytest.mark.parametrize("prediction", PARAMETERIZATIONS)
@pytest.mark.parametrize("time", [0.0, 0.5, 1.0])
def test_the_network_sees_numbers_of_size_one_however_much_noise_there_is(prediction, time):
    """At the end of the edm process noise has a deviation of 80."""
    network = Oracle(torch.zeros(1, 1, 32, 32))
    model = Denoiser(network, EDMSchedule(), PARAMETERIZATIONS[prediction](), (1, 32, 32))
    level = model.schedule.level(time)
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 1, 1, 32, 32, generator=generator)
    model((0.5 if prediction == "edm" else 1) * clean + level.sigma * noise, level)
    assert network.images.std().item() == pytest.approx(1, abs=4 / 2048**0.5)


def test_one_level_for_all_is_one_level_for_each():
    network = nn.Conv2d(1, 1, 3, padding=1)
    model = denoiser_of(Oracle(network(torch.randn(3, 1, 4, 4)).detach()))
    noisy = torch.randn(3, 1, 4, 4)
    one = model(noisy, model.schedule.level(0.4))
    each = model(noisy, model.schedule.levels(torch.full((3,), 0.4, dtype=torch.float64)))
    torch.testing.assert_close(one, each)


def test_the_network_receives_the_time_in_float32():
    model = denoiser_of(Oracle(torch.zeros(2, 1, 4, 4)))
    model(torch.zeros(2, 1, 4, 4), model.schedule.level(0.25))
    assert (model.network.time.dtype, model.network.time.tolist()) == (torch.float32, [0.25])
    model(torch.zeros(2, 1, 4, 4), model.schedule.levels(torch.tensor([0.25, 0.5])))
    assert model.network.time.tolist() == [0.25, 0.5]


def test_labels_go_to_the_network_and_none_means_no_label():
    model = denoiser_of(Oracle(torch.zeros(2, 1, 4, 4)), num_classes=10)
    model(torch.zeros(2, 1, 4, 4), model.schedule.level(0.5), torch.tensor([3, 10]))
    assert model.network.label.tolist() == [3, 10]
    model(torch.zeros(2, 1, 4, 4), model.schedule.level(0.5))
    assert (model.network.label.tolist(), model.network.label.dtype) == ([10, 10], torch.int64)


def test_an_unconditional_model_takes_no_labels():
    model = denoiser_of(Oracle(torch.zeros(2, 1, 4, 4)))
    model(torch.zeros(2, 1, 4, 4), Level(0.6, 0.8, 0.5))
    assert model.network.label is None
    with pytest.raises(ValueError, match="unconditional"):
        model(torch.zeros(2, 1, 4, 4), Level(0.6, 0.8, 0.5), torch.tensor([0, 1]))


def test_under_mixed_precision_the_clean_image_is_still_float32():
    model = denoiser_of(nn.Identity())
    model.network.forward = lambda images, time, label: images.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(torch.randn(2, 1, 4, 4), model.schedule.level(0.5)).dtype == torch.float32
