"""DDIM against its equation and against DDPM."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from diffusion_lab.diffusion.level import Level
from diffusion_lab.diffusion.schedules import DiscreteSchedule, linear_betas
from diffusion_lab.samplers import DDIMSampler, DDPMSampler, DPMSolverPP2MSDESampler
from diffusion_lab.samplers.base import Estimate

HERE, THERE = Level(0.6, 0.8, 0.6), Level(0.8, 0.6, 0.4)


def test_only_eta_lets_fresh_noise_in(data):
    """Without it the image follows from the starting noise alone; with it hardly any of that is left."""
    still, fresh = (data.sample(DDIMSampler(steps=100, eta=eta)).squeeze(0) for eta in (0.0, 1.0))
    assert still[2:].abs().max() == 0
    spread = data.covariance.sqrt().item()
    assert still[1].item() == pytest.approx(spread, rel=0.05)
    assert fresh[1].abs().item() < 0.05 * spread


@pytest.mark.parametrize("steps", [7, 100])
def test_eta_one_is_ddpm_with_the_small_variance(data, steps):
    """arXiv:2010.02502, section 4.1: with the same noise each, the same image."""
    ddim = data.sample(DDIMSampler(steps=steps, eta=1))
    ddpm = data.sample(DDPMSampler(steps=steps, variance="small"))
    torch.testing.assert_close(ddim, ddpm, rtol=0, atol=1e-10)


@given(eta=st.floats(0, 1))
def test_a_step_is_equation_12(eta):
    """Written as in arXiv:2010.02502, equations 12 and 16, with the paper's alphas, our squares."""
    noisy, clean, fresh = (torch.tensor([value], dtype=torch.float64) for value in (0.9, -0.2, 1.3))
    deviation = eta * (THERE.sigma**2 / HERE.sigma**2) ** 0.5 * (1 - HERE.alpha**2 / THERE.alpha**2) ** 0.5
    predicted_noise = (noisy - HERE.alpha * clean) / HERE.sigma
    expected = THERE.alpha * clean + (THERE.sigma**2 - deviation**2) ** 0.5 * predicted_noise + deviation * fresh
    moved = DDIMSampler(eta=eta).step(noisy, [Estimate(HERE, clean, noisy)], THERE, lambda x, level: x, lambda: fresh)
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-12)


@given(
    current=st.floats(1e-6, 1),
    share=st.floats(0, 0.999),
    eta=st.floats(0, 1),
    end=st.sampled_from([0.02, 0.1, 0.3]),
)
@example(current=0.015625, share=2.2250738585e-313, eta=1.0, end=0.02)  # hardly any noise is left to keep
@example(current=0.5, share=1.0, eta=1.0, end=0.02)  # a step that leads nowhere
def test_a_step_between_any_two_levels_is_real_and_finite(current, share, eta, end):
    """A variance that rounding pushes below zero would make Python's power complex."""
    schedule = DiscreteSchedule(linear_betas(1000, 1e-4, end))
    at, to = schedule.level(current), schedule.level(current * share)
    one = torch.ones(1, dtype=torch.float64)
    stochastic = (DDIMSampler(eta=eta), DPMSolverPP2MSDESampler(eta=eta), DDPMSampler(), DDPMSampler(variance="large"))
    for sampler in stochastic:
        moved = sampler.step(one, [Estimate(at, 0.5 * one, one)], to, lambda x, level: x, lambda: one)
        assert moved.dtype == torch.float64
        assert moved.isfinite().all()


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_last_step_is_the_clean_estimate_itself(eta):
    noisy, clean = torch.randn(2, 1, 2, 2), torch.randn(2, 1, 2, 2)
    sampler = DDIMSampler(eta=eta)
    moved = sampler.step(noisy, [Estimate(HERE, clean, noisy)], Level(1.0, 0.0, 0.0), lambda x, level: x, no_noise)
    torch.testing.assert_close(moved, clean)


def no_noise():
    pytest.fail("the last step draws no noise")
