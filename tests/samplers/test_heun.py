"""Euler and Heun with churn against EDM's algorithm 2, written as it is printed."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from diffusion_lab.diffusion.continuous import EDMSchedule
from diffusion_lab.diffusion.level import Level
from diffusion_lab.samplers import EulerSampler, HeunSampler
from diffusion_lab.samplers.base import Estimate

SCHEDULE = EDMSchedule(sigma_min=0.02, sigma_max=40)
CHURN = {"churn": 4.0, "churn_from": 0.05, "churn_to": 10.0, "churn_noise": 1.01}


def as_in_edm(sampler_class) -> dict[str, str]:
    return {"average": "slopes"} if sampler_class is HeunSampler else {}


def denoise(noisy: torch.Tensor, sigma: float) -> torch.Tensor:
    return torch.sin(noisy) / (1 + sigma)


def algorithm_2(sigmas, noise, draws, *, second_order, churn, churn_from, churn_to, churn_noise) -> torch.Tensor:
    """arXiv:2206.00364, for s(t) = 1 and sigma(t) = t."""
    x, draws = (1 + sigmas[0] ** 2) ** 0.5 * noise, iter(draws)
    steps = len(sigmas) - 1
    for t, later in pairwise(sigmas):
        gamma = min(churn / steps, 2**0.5 - 1) if churn_from <= t <= churn_to else 0
        t_hat = t + gamma * t
        x_hat = x + (t_hat**2 - t**2) ** 0.5 * churn_noise * next(draws) if gamma > 0 else x
        slope = (x_hat - denoise(x_hat, t_hat)) / t_hat
        x = x_hat + (later - t_hat) * slope
        if later != 0 and second_order:
            slope_there = (x - denoise(x, later)) / later
            x = x_hat + (later - t_hat) * (slope + slope_there) / 2
    return x


@pytest.mark.parametrize("settings", [{}, CHURN, {"churn": 1000.0}])
@pytest.mark.parametrize("sampler_class", [EulerSampler, HeunSampler])
def test_sampling_is_algorithm_2(sampler_class, settings):
    steps = 12
    noise, *draws = torch.randn(steps + 1, 2, 1, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    fresh = iter(draws)
    sampler = sampler_class(steps=steps, spacing="karras", clip=False, **settings, **as_in_edm(sampler_class))
    levels = sampler.levels(SCHEDULE)
    *_, image = sampler.trajectory(lambda x, level: denoise(x, level.sigma), noise, levels, lambda: next(fresh))
    sigmas = [level.sigma for level in sampler_class(steps=steps, spacing="karras").levels(SCHEDULE)]
    # The noisiest level cannot be stirred: no process goes beyond its end.
    most = min(settings.get("churn_to", 39.0), 39.0)
    printed = {"churn": 0.0, "churn_from": 0.0, "churn_noise": 1.0, **settings, "churn_to": most}
    expected = algorithm_2(sigmas, noise, draws, second_order=sampler_class is HeunSampler, **printed)
    torch.testing.assert_close(image, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize(("churn", "count"), [(0.0, 0), (1.0, 9)])
def test_each_level_is_stirred_once_but_the_noisiest_and_the_clean_one(churn, count):
    levels = HeunSampler(steps=10, churn=churn).levels(SCHEDULE)
    assert len(levels) == 11 + count
    assert sum(next_level.sigma > current.sigma for current, next_level in pairwise(levels)) == count


def step(sampler: HeunSampler, noisy: float, current: Level[float], next_level: Level[float], clean) -> torch.Tensor:
    """A step with estimates that are a function of the level alone."""
    image = torch.tensor([noisy], dtype=torch.float64)

    def estimate(images: torch.Tensor, level: Level[float]) -> torch.Tensor:
        return torch.full_like(images, clean(level))

    return sampler.step(image, [Estimate(current, estimate(image, current), image)], next_level, estimate, None)


@pytest.mark.parametrize("next_level", [Level(0.6, 0.8, 0.5), Level(0.8, 0.6, 0.5), Level(1.0, 0.001, 0.1)])
@pytest.mark.parametrize("current", [Level(0.1, 0.9, 1.0), Level(0.0, 1.0, 1.0), Level(1.0, 80.0, 1.0)])
def test_above_equal_shares_a_step_is_exact_for_an_estimate_linear_in_signal_to_noise(current, next_level):
    """With u = alpha / sigma the ODE is d(noisy / sigma) = clean du."""
    first, last = (level.alpha / level.sigma for level in (current, next_level))
    exact = 0.4 / current.sigma + 0.3 * (last - first) - 0.2 * (last**2 - first**2) / 2
    moved = step(HeunSampler(), 0.4, current, next_level, lambda level: 0.3 - 0.2 * level.alpha / level.sigma)
    assert moved.item() == pytest.approx(next_level.sigma * exact, rel=1e-12)


@pytest.mark.parametrize("average", ["auto", "slopes"])
def test_below_equal_shares_the_slopes_are_averaged(average):
    """With s = sigma / alpha the ODE is d(noisy / alpha) = (noisy / alpha - clean) / s ds."""
    current, next_level = Level(0.8, 0.6, 0.5), Level(0.96, 0.28, 0.3)
    moved = step(HeunSampler(average=average), 0.4, current, next_level, lambda level: 0.3 + 0.5 * level.sigma)
    noisy, begin, end = 0.4 / 0.8, 0.6 / 0.8, 0.28 / 0.96
    slope = (noisy - (0.3 + 0.5 * 0.6)) / begin
    slope_there = (noisy + (end - begin) * slope - (0.3 + 0.5 * 0.28)) / end
    assert moved.item() / 0.96 == pytest.approx(noisy + (end - begin) * (slope + slope_there) / 2, rel=1e-12)


@pytest.mark.parametrize("average", ["auto", "slopes"])
@pytest.mark.parametrize("alpha", [0.0, 5e-324, 1e-160, 1e-45, 1e-30])
def test_where_the_image_underflows_images_stay_finite(alpha, average):
    """By slopes they were multiplied by 1 / alpha."""
    levels = [Level(alpha, 1.0, 1.0), Level(0.6, 0.8, 0.5), Level(1.0, 0.0, 0.0)]
    sampler = HeunSampler(average=average, clip=False)
    for images in sampler.trajectory(lambda x, level: 0.5 * torch.sin(x), torch.ones(1, 1, 2, 2), levels, lambda: None):
        assert images.abs().max() < 2
