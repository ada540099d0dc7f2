"""The one loop: where it stops, what it clips, what it hands to a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion_lab.diffusion.level import Level
from diffusion_lab.diffusion.schedules import BETA_SCHEDULES, DiscreteSchedule, linear_betas, sigmoid_betas
from diffusion_lab.samplers import SAMPLERS, DDIMSampler, DDPMSampler, Sampler
from diffusion_lab.samplers.base import Estimate, ddim_update
from diffusion_lab.samplers.spacing import SPACINGS

SCHEDULE = DiscreteSchedule(linear_betas(1000, 1e-4, 0.02))
STRIDES_OF_TIME = ("trailing", "leading", "linspace")
LEVELS = [Level(0.1, 0.99, 1.0), Level(0.6, 0.8, 0.5), Level(1.0, 0.0, 0.0)]


@pytest.mark.parametrize(
    ("spacing", "expected"),
    [
        # arXiv:2305.08891, table 2, for 10 of 1000 steps, counted from 1
        ("linspace", [1000, 889, 778, 667, 556, 445, 334, 223, 112, 1]),
        ("leading", [901, 801, 701, 601, 501, 401, 301, 201, 101, 1]),
        ("trailing", [1000, 900, 800, 700, 600, 500, 400, 300, 200, 100]),
    ],
)
def test_spacings_are_those_of_the_table(spacing, expected):
    levels = DDIMSampler(steps=10, spacing=spacing).levels(SCHEDULE)
    assert [round(level.time * 1000) for level in levels] == [*expected, 0]


@pytest.mark.parametrize("spacing", STRIDES_OF_TIME)
def test_all_steps_are_all_times_of_training(spacing):
    levels = DDIMSampler(steps=None, spacing=spacing).levels(SCHEDULE)
    assert [level.time for level in levels] == [step / 1000 for step in range(1000, -1, -1)]


@given(
    total=st.integers(1, 100),
    share=st.floats(0, 1),
    spacing=st.sampled_from(sorted(SPACINGS)),
    betas=st.sampled_from(sorted(BETA_SCHEDULES)),
)
def test_levels_only_get_cleaner_and_end_clean(total, share, spacing, betas):
    schedule = DiscreteSchedule(BETA_SCHEDULES[betas](total, 1e-4, 0.02))
    steps = max(round(share * total), 1)
    levels = DDIMSampler(steps=steps, spacing=spacing).levels(schedule)
    assert len(levels) == steps + 1
    assert levels[-1] == Level(1.0, 0.0, 0.0)
    assert all(
        current.time > next_level.time and current.sigma > next_level.sigma for current, next_level in pairwise(levels)
    )
    if spacing in STRIDES_OF_TIME:
        assert all(level.time * total == pytest.approx(round(level.time * total)) for level in levels)


def test_more_steps_than_the_process_has_are_refused():
    with pytest.raises(ValueError, match=r"sampler\.steps must be at most .*1000, got 1001"):
        DDIMSampler(steps=1001).levels(SCHEDULE)


def test_the_move_keeps_the_noise_and_is_exact_between_any_levels():
    clean, noise = torch.randn(2, 100, dtype=torch.float64)
    current, next_level = Level(0.6, 0.8, 0.5), Level(0.96, 0.28, 0.1)
    moved = ddim_update(current.alpha * clean + current.sigma * noise, clean, current, next_level)
    torch.testing.assert_close(moved, next_level.alpha * clean + next_level.sigma * noise)


@pytest.mark.parametrize("sampler", [DDIMSampler(), DDIMSampler(eta=1), DDPMSampler()])
def test_sampling_ends_with_the_estimate_of_the_denoiser(sampler):
    answer = torch.full((2, 1, 2, 2), 0.5)
    images = list(
        sampler.trajectory(lambda x, level: answer, torch.randn(2, 1, 2, 2), LEVELS, lambda: torch.randn(2, 1, 2, 2))
    )
    assert len(images) == len(LEVELS) - 1
    torch.testing.assert_close(images[-1], answer)


@pytest.mark.parametrize(("clip", "expected"), [(True, 1.0), (False, 3.0)])
def test_clipping_keeps_the_estimate_in_the_pixel_range(clip, expected):
    three = torch.full((1, 1, 2, 2), 3.0)
    *_, image = DDIMSampler(clip=clip).trajectory(
        lambda x, level: three, torch.zeros(1, 1, 2, 2), LEVELS, lambda: three
    )
    torch.testing.assert_close(image, torch.full((1, 1, 2, 2), expected))


def test_dynamic_threshold_divides_each_image_by_its_own_quantile_where_that_is_above_one():
    """arXiv:2205.11487, section 2.3: the bright image is drawn in, what is beyond clipped; the dim one stays."""
    clean = torch.linspace(-1, 1, 101).view(1, 1, 1, 101) * torch.tensor([4.0, 0.5]).view(2, 1, 1, 1)
    sampler = DDIMSampler(dynamic_threshold=0.9)
    *_, images = sampler.trajectory(lambda x, level: clean, torch.zeros_like(clean), LEVELS, lambda: clean)
    torch.testing.assert_close(images[0], (clean[0] / (0.9 * 4)).clamp(-1, 1))
    torch.testing.assert_close(images[1], clean[1])
    bare = DDIMSampler(dynamic_threshold=0.9, clip=False)
    *_, unclipped = bare.trajectory(lambda x, level: clean, torch.zeros_like(clean), LEVELS, lambda: clean)
    assert torch.equal(unclipped, images)  # the section clips to the quantile before it divides


PURE_NOISE = DiscreteSchedule(sigmoid_betas(2000, 1e-4, 0.9999))
"""Process with several levels of alpha = 0, in float64 as well."""

VARIANTS = [
    (name, options)
    for name, cls in SAMPLERS.items()
    for options in ({}, {"variance": "large"}, {"eta": 0.5}, {"eta": 1.0}, {"churn": 5.0}, {"average": "slopes"})
    if options.keys() <= {field.name for field in fields(cls)}
]


@pytest.mark.parametrize("spacing", [*STRIDES_OF_TIME, "karras", "log_snr", (1.0, 0.95, 0.5, 0.1)])
@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=str)
def test_several_levels_of_pure_noise_can_be_sampled(name, options, spacing):
    sampler = SAMPLERS[name](steps=None if isinstance(spacing, tuple) else 20, spacing=spacing, clip=False, **options)
    levels = sampler.levels(PURE_NOISE)
    if spacing in ("trailing", "linspace"):
        assert sum(level.alpha == 0 for level in levels) > 2
    generator = torch.Generator().manual_seed(0)

    def draw():
        return torch.randn(1000, 1, 1, 1, generator=generator)

    trajectory = sampler.trajectory(lambda x, level: 0.3 * torch.tanh(x), draw(), levels, draw)
    for (current, next_level), images in zip(pairwise(levels), trajectory, strict=True):
        assert images.isfinite().all()
        if next_level.alpha == current.alpha == 0:  # noise stays noise: four standard errors of a deviation
            assert images.std().item() == pytest.approx(1, abs=4 / 2000**0.5)


def test_the_denoiser_is_evaluated_once_per_step_at_the_levels_of_the_trajectory():
    asked = []

    def denoise(noisy, level):
        asked.append(level)
        return noisy

    list(DDIMSampler().trajectory(denoise, torch.zeros(1, 1, 2, 2), LEVELS, lambda: torch.zeros(1)))
    assert asked == LEVELS[:-1]


def test_sampling_starts_from_noise_of_the_variance_of_its_first_level():
    """In a process that does not preserve variance, images of unit variance have alpha² + sigma² of it."""
    seen = []

    def denoise(noisy, level):
        seen.append(noisy)
        return noisy * 0

    list(
        DDIMSampler().trajectory(
            denoise, torch.ones(1, 1, 1, 1), [Level(1.0, 80.0, 1.0), LEVELS[-1]], lambda: torch.zeros(1)
        )
    )
    assert seen[0].item() == pytest.approx((1 + 80.0**2) ** 0.5)


@dataclass(frozen=True)
class TwoStepSampler(Sampler):
    """Custom multistep method that records the history that it receives."""

    history_size: ClassVar[int] = 2
    received: ClassVar[list[list[float]]] = []

    def step(self, x, history: Sequence[Estimate], next_level, denoise, draw_noise):
        self.received.append([estimate.level.time for estimate in history])
        denoise(x, next_level) if next_level.sigma else None
        return ddim_update(x, history[-1].clean, history[-1].level, next_level)


def test_a_multistep_method_receives_its_history_oldest_first():
    levels = [Level(0.1, 0.99, 1.0), Level(0.6, 0.8, 0.7), Level(0.8, 0.6, 0.4), Level(1.0, 0.0, 0.0)]
    list(TwoStepSampler().trajectory(lambda x, level: x, torch.zeros(1, 1, 2, 2), levels, lambda: torch.zeros(1)))
    assert TwoStepSampler.received == [[1.0], [1.0, 0.7], [0.7, 0.4]]


@pytest.mark.parametrize("name", SAMPLERS)
def test_settings_of_every_named_sampler_are_its_fields_with_defaults(name):
    sampler = SAMPLERS[name]()
    assert {"steps", "spacing", "clip"} <= {field.name for field in fields(sampler)}
    with pytest.raises(AttributeError):
        sampler.steps = 3
