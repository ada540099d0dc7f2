"""Parameterizations: the textbook targets, and the one formula that turns them back into clean images."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion_lab.diffusion.level import Level
from diffusion_lab.diffusion.parameterization import PARAMETERIZATIONS, PreconditionedOutput, PredictVelocity
from diffusion_lab.diffusion.schedules import BETA_SCHEDULES, DiscreteSchedule
from tests.diffusion.processes import PROCESSES


def preconditioned_target(alpha, sigma, sigma_data):
    """arXiv:2206.00364, equation 8, for the image divided by alpha."""
    ratio = sigma / alpha
    c_skip = sigma_data**2 / (ratio**2 + sigma_data**2)
    c_out = ratio * sigma_data / math.hypot(ratio, sigma_data)
    return (1 - c_skip) / c_out, -c_skip * ratio / c_out


TEXTBOOK = {
    "epsilon": lambda alpha, sigma: (0.0, 1.0),
    "x0": lambda alpha, sigma: (1.0, 0.0),
    "v": lambda alpha, sigma: (-sigma, alpha),
    "flow": lambda alpha, sigma: (-1.0, 1.0),
    "edm": lambda alpha, sigma: preconditioned_target(alpha, sigma, 0.5),
}
"""Shares of the clean image and of the noise, in a process with alpha² + sigma² = 1."""

angles = st.floats(1e-4, math.pi / 2 - 1e-4)
pixels = st.floats(-1, 1)
noises = st.floats(-4, 4)


def test_every_parameterization_has_a_textbook_target():
    assert TEXTBOOK.keys() == PARAMETERIZATIONS.keys()


@pytest.mark.parametrize("name", TEXTBOOK)
@given(angle=angles)
def test_targets_are_the_textbook_ones(name, angle):
    level = Level(math.cos(angle), math.sin(angle), 0.5)
    # the target is found by solving the formula, which costs digits where alpha or sigma is small
    precision = 1e-15 / (level.alpha * level.sigma)
    expected = pytest.approx(TEXTBOOK[name](level.alpha, level.sigma), abs=precision, rel=1e-9)
    assert PARAMETERIZATIONS[name]().target(level) == expected


@pytest.mark.parametrize("name", TEXTBOOK)
@given(angle=angles, clean=pixels, noise=noises)
def test_a_network_that_outputs_its_target_denoises_perfectly(name, angle, clean, noise):
    level = Level(math.cos(angle), math.sin(angle), 0.5)
    assert denoised(name, level, clean, noise) == pytest.approx(clean, abs=1e-14 / level.alpha)


@pytest.mark.parametrize("name", TEXTBOOK)
@pytest.mark.parametrize("betas", BETA_SCHEDULES)
def test_perfect_denoising_holds_at_every_level_of_every_schedule(name, betas):
    schedule = DiscreteSchedule(BETA_SCHEDULES[betas](1000, 1e-4, 0.02))
    level = schedule.levels(torch.arange(1, 1001).double() / 1000)
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(1000, generator=generator, dtype=torch.float64) * 2 - 1
    noise = torch.randn(1000, generator=generator, dtype=torch.float64)
    error = (denoised(name, level, clean, noise) - clean).abs() * level.alpha
    assert error.max() < 1e-14


@pytest.mark.parametrize("name", TEXTBOOK)
@given(alpha=st.floats(0.01, 10), sigma=st.floats(0.01, 10), clean=pixels, noise=noises)
def test_perfect_denoising_needs_no_preserved_variance(name, alpha, sigma, clean, noise):
    level = Level(alpha, sigma, 0.5)
    assert denoised(name, level, clean, noise) == pytest.approx(clean, abs=1e-9)


def test_velocity_needs_no_division_by_alpha():
    """At pure noise v tells the clean image, which the noise does not (arXiv:2202.00512, appendix D)."""
    level = Level(0.0, 1.0, 1.0)
    of = PredictVelocity().coefficients(level)
    assert (of.c_skip, of.c_out, of.c_in) == (0, -1, 1)
    assert PredictVelocity().target(level) == (-1, 0)


def test_preconditioning_gives_the_network_unit_variance_in_and_out():
    """arXiv:2206.00364, equations 116 and 129, for pixels of standard deviation sigma_data."""
    for alpha, sigma in ((1.0, 0.002), (1.0, 80.0), (0.3, 0.7), (0.0, 1.0)):
        parameterization = PreconditionedOutput(sigma_data=0.5)
        level = Level(alpha, sigma, 0.5)
        c_in = parameterization.coefficients(level).c_in
        clean_share, noise_share = parameterization.target(level)
        assert c_in**2 * (alpha**2 * 0.25 + sigma**2) == pytest.approx(1)
        assert clean_share**2 * 0.25 + noise_share**2 == pytest.approx(1)


UNSCALED = sorted(TEXTBOOK.keys() - {"edm"})


@pytest.mark.parametrize("name", UNSCALED)
@pytest.mark.parametrize("process", sorted(PROCESSES.keys() - {"edm"}))
def test_the_network_sees_the_noisy_image_as_it_is_where_noise_stays_within_one(process, name):
    """Where variance is preserved, and on the straight line of flow, as its papers have it."""
    levels = PROCESSES[process].levels(torch.linspace(0.001, 0.99, 50, dtype=torch.float64))
    c_in = PARAMETERIZATIONS[name]().coefficients(levels).c_in
    torch.testing.assert_close(c_in, torch.ones_like(c_in), rtol=1e-15, atol=0)


@pytest.mark.parametrize("name", UNSCALED)
@pytest.mark.parametrize("sigma", [0.002, 1.0, 80.0, 1e4])
def test_the_network_sees_and_predicts_unit_variance_where_noise_goes_beyond_one(sigma, name):
    """For images of unit variance. Noise minus image (flow) has variance two by itself."""
    level, parameterization = Level(1.0, sigma, 0.5), PARAMETERIZATIONS[name]()
    assert parameterization.coefficients(level).c_in ** 2 * (1 + sigma**2) == pytest.approx(1, rel=1e-12)
    clean_share, noise_share = parameterization.target(level)
    assert clean_share**2 + noise_share**2 == pytest.approx(2 if name == "flow" else 1, rel=1e-6)


def test_velocity_where_noise_goes_beyond_one_is_divided_by_the_scale_of_the_image():
    level = Level(1.0, 80.0, 1.0)
    scale = math.hypot(1, 80)
    assert PredictVelocity().target(level) == pytest.approx((-80 / scale, 1 / scale), rel=1e-9)


@pytest.mark.parametrize("name", TEXTBOOK)
def test_floats_and_tensors_give_the_same_coefficients(name):
    for alpha, sigma in ((1.0, 80.0), (0.6, 0.8), (0.3, 0.7)):
        number = PARAMETERIZATIONS[name]().coefficients(Level(alpha, sigma, 0.5))
        values = Level(*(torch.tensor([value], dtype=torch.float64) for value in (alpha, sigma, 0.5)))
        tensor = PARAMETERIZATIONS[name]().coefficients(values)
        for part in ("c_skip", "c_out", "c_in"):
            assert getattr(tensor, part).dtype == torch.float64
            assert getattr(tensor, part).item() == pytest.approx(getattr(number, part), rel=1e-12)


def denoised(name, level, clean, noise):
    parameterization = PARAMETERIZATIONS[name]()
    clean_share, noise_share = parameterization.target(level)
    of = parameterization.coefficients(level)
    noisy = level.alpha * clean + level.sigma * noise
    return of.c_skip * noisy + of.c_out * (clean_share * clean + noise_share * noise)
