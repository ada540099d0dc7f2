"""Every sampler in every process against what is known exactly of Gaussian data.

The problem and its solution are in diffusion_lab/evaluation/exact.py. The order p of a method is measured: when the
steps double, its error falls to 1 / 2^p.
"""

from __future__ import annotations

import math

import pytest
import torch

from diffusion_lab.evaluation.exact import GaussianData, moments_of
from diffusion_lab.samplers import SAMPLERS
from diffusion_lab.samplers.spacing import SPACINGS
from tests.diffusion.processes import PROCESSES

ODE_ORDERS = {name: cls.order for name, cls in SAMPLERS.items() if cls.order is not None}
NOISY_SAMPLERS = {
    "ddpm": (SAMPLERS["ddpm"], {}, 1),
    "ddpm_large": (SAMPLERS["ddpm"], {"variance": "large"}, 1),
    "ddim_half": (SAMPLERS["ddim"], {"eta": 0.5}, 1),
    "ddim_full": (SAMPLERS["ddim"], {"eta": 1.0}, 1),
    "euler_ancestral": (SAMPLERS["euler_ancestral"], {}, 1),
    "dpm_solver_pp_2m_sde": (SAMPLERS["dpm_solver_pp_2m_sde"], {}, 2),
    "dpm_solver_pp_2m_sde_half": (SAMPLERS["dpm_solver_pp_2m_sde"], {"eta": 0.5}, 2),
    "euler_churn": (SAMPLERS["euler"], {"churn": 10.0}, 1),
    "heun_churn": (SAMPLERS["heun"], {"churn": 10.0, "average": "slopes"}, 2),
}
"""Class, settings, and the order of their distribution (weak order)."""

LEAN = torch.tensor([[0.30, 0.12], [0.12, 0.10]], dtype=torch.float64)
OFF_CENTRE = torch.tensor([0.3, -0.2], dtype=torch.float64)
NEARNESS = {1: 0.25, 2: 0.02, 3: 0.005}
"""Relative error of the covariance allowed after 100 steps, by order: what is left is the method's own error."""


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_lands_on_mean_and_covariance_in_every_process(name, process):
    """Two correlated coordinates, so that the denoiser is no longer a factor."""
    data = GaussianData(PROCESSES[process], OFF_CENTRE, LEAN)
    mean, covariance = moments_of(data.sample(SAMPLERS[name](steps=100, spacing="log_snr")))
    order = ODE_ORDERS.get(name) or NOISY_SAMPLERS[name][2]
    torch.testing.assert_close(mean, OFF_CENTRE, rtol=0, atol=0.005)
    assert (covariance - LEAN).norm() < NEARNESS[order] * LEAN.norm()


@pytest.mark.parametrize("name", ODE_ORDERS)
def test_the_ode_error_falls_with_the_order_of_the_method(data, name):
    """Heun by slopes, as in EDM: where it changes to estimates is another place for each number of steps."""
    options = {"average": "slopes"} if name == "heun" else {}
    coarse, fine = (data.ode_error(SAMPLERS[name](steps=steps, spacing="karras", **options)) for steps in (120, 240))
    assert math.log2(coarse / fine) == pytest.approx(ODE_ORDERS[name], abs=0.15)


def test_heun_is_of_second_order_where_steps_are_strides_of_time(data):
    coarse, fine = (data.ode_error(SAMPLERS["heun"](steps=steps, spacing="trailing")) for steps in (40, 160))
    assert math.log2(coarse / fine) / 2 == pytest.approx(2, abs=0.25)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("spacing", SPACINGS)
def test_heun_with_few_steps_is_no_worse_than_one_estimate_a_step(spacing, process):
    """By slopes alone its error is up to a thousand times as large: 36 with 5 trailing steps on cosine."""
    data = GaussianData(PROCESSES[process])
    for steps in (5, 18):
        heun, euler = (data.ode_error(SAMPLERS[name](steps=steps, spacing=spacing)) for name in ("heun", "euler"))
        assert heun < 1.25 * euler, steps


def test_every_sampler_has_its_order_tested():
    """By its order as a method for the ODE, or with the noise that it adds."""
    known = {"ddim": 1, "euler": 1, "heun": 2, "dpm_solver_pp_2m": 2, "dpm_solver_pp_3m": 3, "unipc": 3}
    assert known.items() <= ODE_ORDERS.items()
    noisy = {cls for cls, _, _ in NOISY_SAMPLERS.values()}
    assert all(name in ODE_ORDERS or cls in noisy for name, cls in SAMPLERS.items())


def test_a_higher_order_pays_from_few_steps_on(data):
    """10 steps each: what the order is for."""
    first, second, third = (
        data.ode_error(SAMPLERS[name](steps=10, spacing="log_snr")) for name in ("ddim", "dpm_solver_pp_2m", "unipc")
    )
    assert second < first / 2
    assert third < first / 2


@pytest.mark.parametrize("name", NOISY_SAMPLERS)
def test_fresh_noise_keeps_the_marginal_moments_at_every_level(data, name):
    """What noise a step destroys it puts back, so each level has the distribution that training saw there."""
    sampler_class, settings, order = NOISY_SAMPLERS[name]
    sampler = sampler_class(steps=100, spacing="log_snr", **settings)
    levels = sampler.levels(data.schedule)
    for level, points in zip(levels[1:], data.trajectory(sampler, levels), strict=True):
        (mean, variance), (true_mean, true_variance) = moments_of(points), data.moments(level)
        # Sampling begins without the little that the noisiest level still has of the mean.
        assert (mean - true_mean).abs() < 0.03 * true_variance.sqrt()
        assert (variance / true_variance - 1).abs() < NEARNESS[order]


@pytest.mark.parametrize("name", NOISY_SAMPLERS)
def test_the_error_of_the_distribution_falls_with_the_order_of_the_method(name):
    sampler_class, settings, order = NOISY_SAMPLERS[name]
    data = GaussianData(PROCESSES["continuous_cosine"])
    coarse, fine = (
        variance_error(data, sampler_class(steps=steps, spacing="log_snr", **settings)) for steps in (50, 100)
    )
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.25)


def variance_error(data, sampler):
    _, variance = moments_of(data.sample(sampler))
    return (variance - data.covariance).abs().item()
