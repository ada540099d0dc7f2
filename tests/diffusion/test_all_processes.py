"""Properties of every noise process: inverse of the log-SNR, monotone, finite at both ends in every precision."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from diffusion_lab.denoiser import Denoiser
from diffusion_lab.diffusion.continuous import ContinuousCosineSchedule, EDMSchedule, FlowSchedule
from diffusion_lab.diffusion.level import Level, log_snr
from diffusion_lab.diffusion.loss import DenoisingLoss
from diffusion_lab.diffusion.parameterization import PARAMETERIZATIONS
from diffusion_lab.diffusion.schedules import DiscreteSchedule, enforce_zero_terminal_snr, linear_betas
from diffusion_lab.diffusion.weighting import WEIGHTINGS
from diffusion_lab.samplers import SAMPLERS
from tests.diffusion.processes import PROCESSES

LOSES_THE_IMAGE = ("zero_terminal_snr", "flow")
TRAINABLE = [  # where nothing is left of the image, its noise does not tell it
    (name, prediction)
    for name in PROCESSES
    for prediction in PARAMETERIZATIONS
    if not (prediction == "epsilon" and name in LOSES_THE_IMAGE)
]
HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@pytest.fixture(params=PROCESSES)
def process(request):
    return request.param


@settings(max_examples=30)
@given(time=st.floats(1e-3, 1 - 1e-3))
@pytest.mark.parametrize("name", PROCESSES)
def test_time_and_log_snr_are_each_others_inverse(name, time):
    schedule = PROCESSES[name]
    ratio = log_snr(schedule.level(time))
    assert schedule.time(ratio) == pytest.approx(time, abs=1e-9)
    assert log_snr(schedule.level(schedule.time(ratio))) == pytest.approx(ratio, abs=1e-6)


def test_log_snr_beyond_the_ends_is_the_end(process):
    times = PROCESSES[process].times(torch.tensor([math.inf, 1e3, -1e3, -math.inf]))
    assert times.tolist() == pytest.approx([0, 0, 1, 1], abs=1e-9)


def test_levels_are_finite_and_only_get_noisier(process):
    level = PROCESSES[process].levels(torch.linspace(0, 1, 2001, dtype=torch.float64))
    assert level.alpha.isfinite().all()
    assert level.sigma.isfinite().all()
    assert (level.alpha >= 0).all()
    assert (level.sigma >= 0).all()
    assert (
        (level.sigma * level.alpha.roll(1) - level.sigma.roll(1) * level.alpha)[1:] > 0
    ).all()  # sigma / alpha rises


def test_the_way_to_a_pure_end_is_inverted_too():
    """Of ten steps the last, from a good part of the image to none of it, is long."""
    schedule = DiscreteSchedule(enforce_zero_terminal_snr(linear_betas(10, 0.01, 0.3)))
    times = torch.linspace(0.9, 1, 11, dtype=torch.float64)
    level = schedule.levels(times)
    torch.testing.assert_close(schedule.times(2 * (level.alpha / level.sigma).log()), times, rtol=0, atol=1e-12)
    assert schedule.time(-15.0) > 0.99


def test_where_training_begins_there_is_noise_in_every_precision(process):
    schedule = PROCESSES[process]
    first = schedule.levels(schedule.training_times(torch.zeros(1)))
    for dtype in (torch.float32, *HALF.values()):
        assert first.sigma.to(dtype) > 0
        assert schedule.levels(torch.ones(1)).sigma.to(dtype).isfinite()


def test_continuous_cosine_is_cosine_and_sine_of_an_angle():
    """arXiv:2301.11093, section 2: log-SNR = -2 log tan(pi t / 2), shifted by 2 log of the factor, from 15 to -15."""
    plain, shifted = ContinuousCosineSchedule(), ContinuousCosineSchedule(noise_shift=4)
    least, most = (math.atan(math.exp(end / 2)) for end in (-15, 15))
    for time in (0.0, 0.2, 0.5, 0.9, 1.0):
        angle = least + (most - least) * time
        level = plain.level(time)
        assert (level.alpha, level.sigma) == pytest.approx((math.cos(angle), math.sin(angle)), abs=1e-12)
        assert log_snr(shifted.level(time)) == pytest.approx(log_snr(level) - 2 * math.log(4), abs=1e-6)


def test_edm_keeps_the_image_and_spans_its_noise():
    schedule = EDMSchedule(sigma_min=0.01, sigma_max=50)
    assert [schedule.level(time).alpha for time in (0.0, 0.5, 1.0)] == [1, 1, 1]
    sigmas = [schedule.level(time).sigma for time in (0.0, 0.5, 1.0)]
    assert sigmas == pytest.approx([0.01, (0.01 * 50) ** 0.5, 50])


def test_flow_is_a_straight_line_and_its_shift_that_of_equation_23():
    """arXiv:2403.03206: t' = shift t / (1 + (shift - 1) t)."""
    level = FlowSchedule().level(0.3)
    assert (level.alpha, level.sigma) == pytest.approx((0.7, 0.3))
    level = FlowSchedule(noise_shift=3).level(0.3)
    moved = 3 * 0.3 / (1 + 2 * 0.3)
    assert (level.alpha, level.sigma) == pytest.approx((1 - moved, moved))


def test_a_continuous_process_has_no_number_of_steps_of_its_own():
    with pytest.raises(
        ValueError, match=r"sampler\.steps must be a number, got null: .*Set for example sampler\.steps=250"
    ):
        FlowSchedule().check_steps(None)
    assert FlowSchedule().check_steps(7) == 7


class HalfNetwork(nn.Module):
    """Outputs half-precision numbers for half-precision numbers, as a network does under autocast."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, images, times, labels):
        assert images.to(self.dtype).isfinite().all()
        return self.scale.to(self.dtype) * images.to(self.dtype)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize(("name", "prediction"), TRAINABLE)
def test_estimates_are_finite_at_both_ends_though_the_network_is_in_half_precision(name, prediction, dtype):
    schedule = PROCESSES[name]
    denoiser = Denoiser(HalfNetwork(HALF[dtype]), schedule, PARAMETERIZATIONS[prediction](), (1, 4, 4))
    times = schedule.training_times(torch.tensor([0.0, 0.5, 1.0]))
    level = schedule.levels(times)
    noise = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    noisy = (level.alpha**2 + level.sigma**2).sqrt().float().view(-1, 1, 1, 1) * noise
    clean = denoiser(noisy, level)
    assert clean.dtype == torch.float32
    assert clean.isfinite().all()


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize(("name", "prediction"), TRAINABLE)
def test_the_loss_is_finite_though_the_network_is_in_half_precision(name, prediction, dtype):
    network = HalfNetwork(HALF[dtype])
    denoiser = Denoiser(network, PROCESSES[name], PARAMETERIZATIONS[prediction](), (1, 2, 2))
    clean = torch.rand(500, 1, 2, 2) * 2 - 1
    for weighting in WEIGHTINGS.values():
        loss = DenoisingLoss(weighting=weighting(), stratified=True)(denoiser, clean, None, seed=0)
        loss.backward()
        assert loss.isfinite()
    if dtype == "bfloat16":  # float16 has no room for every gradient: a scaler of the loss makes some
        assert network.scale.grad.isfinite()


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampling_is_finite_with_a_network_in_half_precision(process, name):
    denoiser = Denoiser(HalfNetwork(torch.float16), PROCESSES[process], PARAMETERIZATIONS["v"](), (1, 2, 2))
    sampler = SAMPLERS[name](steps=4)
    levels = sampler.levels(PROCESSES[process])
    assert levels[-1] == Level(1.0, 0.0, 0.0)
    generator = torch.Generator().manual_seed(0)

    def draw():
        return torch.randn(2, 1, 2, 2, generator=generator)

    with torch.no_grad():
        for images in sampler.trajectory(denoiser, draw(), levels, draw):
            assert images.dtype == torch.float32
            assert images.isfinite().all()
