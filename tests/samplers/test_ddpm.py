"""DDPM against the posterior of the paper, and against the distribution that it has to reach."""

from __future__ import annotations

import pytest
import torch

from diffusion_lab.diffusion.level import Level
from diffusion_lab.diffusion.schedules import DiscreteSchedule, linear_betas
from diffusion_lab.evaluation.exact import GaussianData, moments_of
from diffusion_lab.samplers import DDPMSampler
from diffusion_lab.samplers.base import Estimate, added_variance, posterior_variance
from tests.diffusion.processes import DISCRETE

STEPS = 20
BETAS = torch.linspace(0.01, 0.4, STEPS, dtype=torch.float64)
ALPHA_BAR = torch.cat([torch.ones(1, dtype=torch.float64), (1 - BETAS).cumprod(0)])
SCHEDULE = DiscreteSchedule(linear_betas(STEPS, 0.01, 0.4))


@pytest.mark.parametrize("variance", ["small", "large"])
@pytest.mark.parametrize("t", [2, 3, 11, 20])
def test_a_step_has_the_posteriors_mean_and_variance(t, variance):
    """arXiv:2006.11239, equations 6 and 7, for neighbouring steps: beta_tilde is small, beta is large."""
    beta, before, now = BETAS[t - 1], ALPHA_BAR[t - 1], ALPHA_BAR[t]
    noisy, clean = 0.7, -0.4
    mean = before.sqrt() * beta / (1 - now) * clean + (1 - beta).sqrt() * (1 - before) / (1 - now) * noisy
    expected = {"small": (1 - before) / (1 - now) * beta, "large": beta}[variance]
    at_zero, at_one = (one_step(t, t - 1, noisy, clean, fresh, variance) for fresh in (0.0, 1.0))
    assert at_zero == pytest.approx(mean.item(), abs=1e-12)
    assert (at_one - at_zero) ** 2 == pytest.approx(expected.item(), rel=1e-10)


@pytest.mark.parametrize(("t", "s"), [(20, 13), (9, 1), (20, 2)])
def test_a_strided_step_is_the_posterior_of_the_product_of_its_steps(t, s):
    """arXiv:2102.09672, section 3.1: the process between two steps has beta = 1 - alpha_bar_t / alpha_bar_s."""
    beta = 1 - ALPHA_BAR[t] / ALPHA_BAR[s]
    current, next_level = SCHEDULE.level(t / STEPS), SCHEDULE.level(s / STEPS)
    assert added_variance(current, next_level) == pytest.approx(beta.item(), rel=1e-10)
    small = beta * (1 - ALPHA_BAR[s]) / (1 - ALPHA_BAR[t])
    assert posterior_variance(current, next_level) == pytest.approx(small.item(), rel=1e-10)


def test_the_posterior_is_that_of_bayes():
    """Regression of the image at ``next_level`` on clean and noisy images, drawn from the process itself."""
    generator = torch.Generator().manual_seed(0)
    current, next_level = SCHEDULE.level(0.5), SCHEDULE.level(0.25)
    first, second = torch.randn(2, 400_000, generator=generator, dtype=torch.float64)
    clean = 0.5
    at_there = next_level.alpha * clean + next_level.sigma * first
    at_here = current.alpha / next_level.alpha * at_there + added_variance(current, next_level) ** 0.5 * second
    slope = torch.cov(torch.stack([at_there, at_here]))[0, 1] / at_here.var()
    rest = at_there - at_there.mean() - slope * (at_here - at_here.mean())
    assert rest.var().item() == pytest.approx(posterior_variance(current, next_level), rel=4 * (2 / 400_000) ** 0.5)


@pytest.mark.parametrize("variance", ["small", "large"])
@pytest.mark.parametrize("process", DISCRETE)
def test_all_steps_land_on_mean_and_variance_of_the_data(process, variance):
    data = GaussianData(DISCRETE[process])
    mean, covariance = moments_of(data.sample(DDPMSampler(variance=variance)))
    torch.testing.assert_close(mean, data.mean, rtol=0, atol=1e-3)
    torch.testing.assert_close(covariance, data.covariance, rtol=0.025, atol=0)


def test_small_variance_errs_below_and_large_above(data):
    """They are the bounds of the right one, for data without and with unit variance (arXiv:2006.11239, 3.2)."""
    small, large = (
        moments_of(data.sample(DDPMSampler(steps=100, variance=variance)))[1] for variance in ("small", "large")
    )
    assert small < data.covariance < large


def test_the_last_step_is_the_clean_estimate_and_draws_no_noise():
    noisy, clean = torch.randn(2, 2, 1, 2, 2)
    history = [Estimate(SCHEDULE.level(1 / STEPS), clean, noisy)]
    moved = DDPMSampler().step(noisy, history, Level(1.0, 0.0, 0.0), lambda x, at: x, no_noise)
    torch.testing.assert_close(moved, clean, rtol=0, atol=1e-6)


def test_every_step_of_the_process_is_taken_unless_fewer_are_asked_for():
    assert len(DDPMSampler().levels(SCHEDULE)) == STEPS + 1
    assert len(DDPMSampler(steps=5).levels(SCHEDULE)) == 6


def no_noise():
    pytest.fail("the last step draws no noise")


def one_step(t: int, s: int, noisy: float, clean: float, fresh: float, variance: str) -> float:
    current, next_level = SCHEDULE.level(t / STEPS), SCHEDULE.level(s / STEPS)
    image, estimate, noise = (torch.tensor([value], dtype=torch.float64) for value in (noisy, clean, fresh))
    history = [Estimate(current, estimate, image)]
    return DDPMSampler(variance=variance).step(image, history, next_level, lambda x, at: x, lambda: noise).item()
