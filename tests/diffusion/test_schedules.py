"""The discrete processes against the published formulas, written again here with numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_lab.diffusion.level import Level, log_snr
from diffusion_lab.diffusion.schedules import BETA_SCHEDULES, DiscreteSchedule, enforce_zero_terminal_snr

STEPS = (1, 2, 10, 1000, 4000)
NAMES = sorted(BETA_SCHEDULES)


def schedule_of(name: str, steps: int = 1000, start: float = 1e-4, end: float = 0.02) -> DiscreteSchedule:
    return DiscreteSchedule(BETA_SCHEDULES[name](steps, start, end))


def published_betas(name: str, steps: int, start: float, end: float) -> np.ndarray:
    share = np.arange(steps) / max(steps - 1, 1)
    if name == "linear":
        return start + (end - start) * share
    if name == "quadratic":
        return (math.sqrt(start) + (math.sqrt(end) - math.sqrt(start)) * share) ** 2
    if name == "sigmoid":
        return start + (end - start) / (1 + np.exp(-(-6 + 12 * share)))

    def product(step: np.ndarray) -> np.ndarray:  # arXiv:2102.09672, equation 17, not divided by f(0)
        return np.cos((step / steps + 0.008) / 1.008 * np.pi / 2) ** 2

    step = np.arange(1, steps + 1)
    return np.minimum(1 - product(step) / product(step - 1), 0.999)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", STEPS)
def test_betas_are_the_published_ones(name, steps):
    start, end = 1e-4, 0.02
    betas = BETA_SCHEDULES[name](steps, start, end)
    assert betas.dtype == torch.float64
    np.testing.assert_allclose(betas.numpy(), published_betas(name, steps, start, end), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("name", ["linear", "quadratic"])
def test_betas_run_from_start_to_end(name):
    betas = BETA_SCHEDULES[name](50, 0.003, 0.3)
    assert betas[0].item() == pytest.approx(0.003, rel=1e-12)
    assert betas[-1].item() == pytest.approx(0.3, rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", STEPS)
def test_alpha_bar_follows_the_published_recursion(name, steps):
    """alpha_bar_t = alpha_bar_{t-1} (1 - beta_t), arXiv:2006.11239, equation 4; sigma² is the rest."""
    schedule = schedule_of(name, steps)
    alpha_bar = np.concatenate([[1.0], np.cumprod(1 - published_betas(name, steps, 1e-4, 0.02))])
    level = schedule.levels(torch.arange(steps + 1).double() / steps)
    np.testing.assert_allclose(level.alpha.numpy() ** 2, alpha_bar, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(level.sigma.numpy() ** 2, 1 - alpha_bar, rtol=1e-9, atol=1e-12)


def test_cosine_alpha_bar_is_the_curve_until_the_clip():
    """arXiv:2102.09672, equation 17: alpha_bar = f(t) / f(0)."""
    curve = np.cos((np.arange(1000) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    level = schedule_of("cosine").levels(torch.arange(1000).double() / 1000)
    np.testing.assert_allclose(level.alpha.numpy() ** 2, curve / curve[0], atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_levels_are_finite_preserve_variance_and_only_get_noisier(name):
    level = schedule_of(name).levels(torch.linspace(0, 1, 1001, dtype=torch.float64))
    assert level.alpha.isfinite().all()
    assert level.sigma.isfinite().all()
    assert (level.alpha[0].item(), level.sigma[0].item()) == (1.0, 0.0)
    assert level.alpha[-1] > 0
    assert (level.alpha.diff() < 0).all()
    assert (level.sigma.diff() >= 0).all()
    torch.testing.assert_close(
        level.alpha**2 + level.sigma**2, torch.ones(1001, dtype=torch.float64), rtol=0, atol=1e-14
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_least_noise_keeps_its_digits(name):
    """1 - alpha_bar of the first step is beta_1; a difference in float32 would leave three digits of it."""
    schedule = schedule_of(name)
    assert schedule.level(schedule.first_time).sigma ** 2 == pytest.approx(schedule.betas[0].item(), rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=30)
@given(time=st.floats(1e-6, 1))
def test_time_and_log_snr_are_each_others_inverse(name, time):
    schedule = schedule_of(name)
    assert schedule.time(log_snr(schedule.level(time))) == pytest.approx(time, abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [1, 2, 1000])
def test_log_snr_beyond_either_end_is_that_end(name, steps):
    schedule = schedule_of(name, steps)
    assert schedule.time(math.inf) == 0
    assert schedule.time(-math.inf) == 1
    assert schedule.time(log_snr(schedule.level(1.0)) - 5) == 1
    assert schedule.time(log_snr(schedule.level(1.0))) == pytest.approx(1, abs=1e-12)


def test_log_snr_of_a_level_is_its_definition_and_infinite_at_pure_ends():
    assert log_snr(Level(0.6, 0.8, 0.5)) == pytest.approx(math.log(0.36 / 0.64))
    assert log_snr(Level(1.0, 0.0, 0.0)) == math.inf
    assert log_snr(Level(0.0, 1.0, 1.0)) == -math.inf


def test_between_two_steps_the_logarithm_of_alpha_bar_is_linear():
    schedule = schedule_of("linear", 10, 0.01, 0.5)
    below, between, above = (math.log(schedule.level(step / 10).alpha) for step in (3, 3.25, 4))
    assert between == pytest.approx(0.75 * below + 0.25 * above, rel=1e-12)


def test_training_takes_every_step_equally_and_never_the_clean_image():
    schedule = schedule_of("linear", 8)
    times = schedule.training_times((torch.arange(8000, dtype=torch.float64) + 0.5) / 8000)
    steps, counts = (times * 8).unique(return_counts=True)
    assert steps.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert counts.tolist() == [1000] * 8
    assert schedule.training_times(torch.zeros(1)).item() == 1 / 8


def test_nothing_is_left_of_the_image_with_zero_terminal_snr():
    """arXiv:2305.08891, algorithm 1: the last alpha is zero, the first unchanged, the others shifted and scaled."""
    betas = BETA_SCHEDULES["linear"](1000, 1e-4, 0.02)
    before, after = DiscreteSchedule(betas), DiscreteSchedule(enforce_zero_terminal_snr(betas))
    level, times = after.level(1.0), torch.arange(1, 1001).double() / 1000
    assert (level.alpha, level.sigma) == (0.0, 1.0)
    assert after.level(0.001).alpha == pytest.approx(before.level(0.001).alpha, rel=1e-12)
    old, new = (schedule.levels(times).alpha for schedule in (before, after))
    torch.testing.assert_close(new, (old - old[-1]) * old[0] / (old[0] - old[-1]), rtol=1e-9, atol=1e-12)
    assert (new.diff() < 0).all()
    assert after.time(-math.inf) == 1.0
    with pytest.raises(ValueError, match="zero_terminal_snr needs at least 2 num_timesteps, got 1"):
        enforce_zero_terminal_snr(betas[:1])


def test_the_nearest_time_is_a_step_of_training():
    schedule = schedule_of("linear", 10)
    assert [schedule.nearest_time(time) for time in (0.0, 0.04, 0.26, 0.949, 0.96, 1.0)] == [
        0.1,
        0.1,
        0.3,
        0.9,
        1.0,
        1.0,
    ]


def test_null_steps_are_all_and_more_than_all_is_refused():
    schedule = schedule_of("linear", 20)
    assert [schedule.check_steps(steps) for steps in (None, 1, 20)] == [20, 1, 20]
    with pytest.raises(ValueError, match=r"sampler\.steps must be at most model\.diffusion\.num_timesteps, 20, got 21"):
        schedule.check_steps(21)
