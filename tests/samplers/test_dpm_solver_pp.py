"""The multistep solvers against the integral that they approximate, and their exactness for polynomials.

With lambda = log(alpha / sigma), the ODE's solution is (arXiv:2211.01095, proposition 4.1)

    x_t = sigma_t / sigma_s x_s + sigma_t ∫_s^t exp(lambda) clean(lambda) d lambda.

A method of order p integrates clean estimates that are polynomials of degree p - 1 exactly.
"""

from __future__ import annotations

import math

import pytest
import torch

from diffusion_lab.diffusion.level import Level
from diffusion_lab.samplers import SAMPLERS, DPMSolverPP2MSDESampler
from diffusion_lab.samplers.base import Estimate, added_variance

LAMBDAS = [-1.3, -0.9, -0.2, 0.5]


def level_at(half_log_snr: float) -> Level[float]:
    sigma = (1 + math.exp(2 * half_log_snr)) ** -0.5
    return Level(math.exp(half_log_snr) * sigma, sigma, 0.5)


def integrated(noisy: torch.Tensor, clean, start: float, end: float) -> torch.Tensor:
    """The formula above, its integral by Simpson's rule on 2000 pieces."""
    current, next_level = level_at(start), level_at(end)
    at = torch.linspace(start, end, 2001, dtype=torch.float64)
    weights = torch.ones(2001, dtype=torch.float64)
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    integral = (weights * at.exp() * clean(at)).sum() * (end - start) / 6000
    return next_level.sigma / current.sigma * noisy + next_level.sigma * integral


@pytest.mark.parametrize(("coefficients"), [(0.7, 0.0, 0.0), (0.7, -0.4, 0.0), (0.7, -0.4, 0.9)])
def test_the_third_order_method_is_exact_for_a_parabola(coefficients):
    def clean(at):
        return coefficients[0] + coefficients[1] * at + coefficients[2] * at**2

    noisy = torch.tensor([0.4], dtype=torch.float64)
    history = [Estimate(level_at(at), clean(torch.tensor([at], dtype=torch.float64)), noisy) for at in LAMBDAS[:3]]
    moved = SAMPLERS["dpm_solver_pp_3m"]().step(noisy, history, level_at(LAMBDAS[3]), None, None)
    torch.testing.assert_close(moved, integrated(noisy, clean, *LAMBDAS[2:]), rtol=0, atol=1e-9)


def test_the_third_order_method_is_exact_for_a_line_from_its_second_step_on():
    def clean(at):
        return 0.7 - 0.4 * at

    noisy = torch.tensor([0.4], dtype=torch.float64)
    history = [Estimate(level_at(at), clean(torch.tensor([at], dtype=torch.float64)), noisy) for at in LAMBDAS[1:3]]
    moved = SAMPLERS["dpm_solver_pp_3m"]().step(noisy, history, level_at(LAMBDAS[3]), None, None)
    torch.testing.assert_close(moved, integrated(noisy, clean, *LAMBDAS[2:]), rtol=0, atol=1e-9)


@pytest.mark.parametrize("coefficients", [(0.7, 0.0, 0.0), (0.7, -0.4, 0.0), (0.7, -0.4, 0.9)])
def test_the_corrector_of_unipc_is_exact_for_a_parabola(coefficients):
    """It takes the last step again, with the estimate at its end (arXiv:2302.04867, algorithm 1)."""

    def clean(at):
        return coefficients[0] + coefficients[1] * at + coefficients[2] * at**2

    noisy = torch.tensor([0.4], dtype=torch.float64)
    history = [Estimate(level_at(at), clean(torch.tensor([at], dtype=torch.float64)), noisy) for at in LAMBDAS[1:3]]
    at_end = clean(torch.tensor([LAMBDAS[3]], dtype=torch.float64))
    corrected = SAMPLERS["unipc"]().correct(torch.zeros(1), at_end, level_at(LAMBDAS[3]), history)
    torch.testing.assert_close(corrected, integrated(noisy, clean, *LAMBDAS[2:]), rtol=0, atol=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_a_step_on_the_sde_keeps_the_variance_of_noise(eta):
    """Of pure noise with a clean estimate of zero, what shrinks and what is fresh make up the level's own variance."""
    current, next_level = level_at(-0.9), level_at(0.5)
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    sampler = DPMSolverPP2MSDESampler(eta=eta)
    kept = sampler.step(current.sigma * one, [Estimate(current, zero, one)], next_level, None, lambda: zero)
    fresh = sampler.step(zero, [Estimate(current, zero, zero)], next_level, None, lambda: one)
    assert (kept**2 + fresh**2).item() == pytest.approx(next_level.sigma**2)
    if eta == 1:  # the share of DDPM: what the posterior lets through
        passed = current.alpha / next_level.alpha * next_level.sigma**2 / current.sigma
        assert kept.item() == pytest.approx(passed)
        assert fresh.item() ** 2 == pytest.approx(
            added_variance(current, next_level) * next_level.sigma**2 / current.sigma**2
        )
