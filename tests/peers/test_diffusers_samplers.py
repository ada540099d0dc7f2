"""The samplers against the schedulers of diffusers: same network, same noise, same steps, same images.

diffusers' Euler and Heun count in noisy / alpha; the network sees the same numbers in both.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, product, repeat

import pytest
import torch
from torch import Tensor, nn

from diffusion_lab.denoiser import Denoiser
from diffusion_lab.diffusion.level import Level, log_snr
from diffusion_lab.diffusion.parameterization import PARAMETERIZATIONS
from diffusion_lab.diffusion.schedules import BETA_SCHEDULES, DiscreteSchedule
from diffusion_lab.samplers import SAMPLERS, Sampler
from diffusion_lab.samplers.base import Estimate

diffusers = pytest.importorskip("diffusers", reason="needs the extra 'peers'")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # theirs, of numpy

STEPS = 10
TRAINED_STEPS = 1000
SHAPE = (3, 4, 4)
PREDICTIONS = {"epsilon": "epsilon", "v": "v_prediction", "x0": "sample"}
THEIR_BETAS = {"linear": "linear", "quadratic": "scaled_linear", "cosine": "squaredcos_cap_v2"}

PAIRS = {
    "ddpm_small": ("ddpm", {"variance": "small"}, "DDPMScheduler", {"variance_type": "fixed_small"}),
    "ddpm_large": ("ddpm", {"variance": "large"}, "DDPMScheduler", {"variance_type": "fixed_large"}),
    "ddim": ("ddim", {"eta": 0.0}, "DDIMScheduler", {}),
    "ddim_noisy": ("ddim", {"eta": 1.0}, "DDIMScheduler", {}),
    "euler": ("euler", {}, "EulerDiscreteScheduler", {}),
    "euler_ancestral": ("euler_ancestral", {}, "EulerAncestralDiscreteScheduler", {}),
    "heun": ("heun", {"average": "slopes"}, "HeunDiscreteScheduler", {}),
    "dpm_solver_pp_2m": ("dpm_solver_pp_2m", {}, "DPMSolverMultistepScheduler", {"solver_order": 2}),
    "dpm_solver_pp_2m_sde": (
        "dpm_solver_pp_2m_sde",
        {},
        "DPMSolverMultistepScheduler",
        {"solver_order": 2, "algorithm_type": "sde-dpmsolver++"},
    ),
    "unipc": ("unipc", {}, "UniPCMultistepScheduler", {"solver_order": 2, "solver_type": "bh2"}),
}
"""Our sampler and its settings, their scheduler and its settings."""

NOT_IN_DIFFUSERS = {("euler_ancestral", "x0")}
COUNTS_IN_SIGMA = ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler")


class FixedNetwork(nn.Module):
    """A smooth bounded function of images and time, in place of a trained network."""

    def forward(self, images: Tensor, times: Tensor, labels: None) -> Tensor:
        return 0.6 * torch.sin(images + 3 * times.view(-1, 1, 1, 1)) + 0.1 * images.roll(1, dims=-1)


@pytest.fixture
def noises() -> list[Tensor]:
    return list(torch.randn(2 * STEPS + 1, 2, *SHAPE, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize(
    ("betas", "spacing"),
    # The cosine process ends in sigma / alpha = 20000, of which float32 leaves no four digits: not the whole of it.
    [("linear", "trailing"), ("linear", "leading"), ("quadratic", "trailing"), ("cosine", "leading")],
)
@pytest.mark.parametrize(
    ("pair", "prediction"), [both for both in product(PAIRS, PREDICTIONS) if both not in NOT_IN_DIFFUSERS]
)
def test_the_images_are_those_of_diffusers(pair, prediction, betas, spacing, noises, monkeypatch):
    name, settings, scheduler_name, options = PAIRS[pair]
    scheduler = scheduler_of(scheduler_name, PREDICTIONS[prediction], betas, timestep_spacing=spacing, **options)
    sampler = SAMPLERS[name](steps=STEPS, spacing=spacing, clip=False, **settings)
    schedule = DiscreteSchedule(BETA_SCHEDULES[betas](TRAINED_STEPS, 1e-4, 0.02))
    # Their multistep solvers place the steps of "leading" as if there were one more. And their sigma of the least noisy
    # step, 1 - alpha_bar in float32, has three right digits, of which Heun's division by it leaves too few.
    their_own = spacing == "leading" and hasattr(scheduler, "sigmas")
    levels = their_levels(scheduler) if their_own else sampler.levels(schedule)
    eta = {"eta": settings["eta"]} if name == "ddim" else {}
    theirs = images_of_diffusers(scheduler, noises, monkeypatch, **eta)
    if (pair, spacing) == ("ddpm_large", "trailing"):
        # Algorithm 2 of arXiv:2006.11239, line 3, adds no noise in the last step. diffusers asks for step 0 of training
        # instead of the last, and so leaves the last noise, of variance beta, on the images. Ours are without.
        theirs = theirs - (1 - schedule.level(1 / STEPS).alpha ** 2) ** 0.5 * noises[STEPS]
    torch.testing.assert_close(ours(sampler, prediction, schedule, levels, noises), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pair", ["euler", "heun", "dpm_solver_pp_2m", "dpm_solver_pp_2m_sde", "unipc"])
def test_the_images_are_those_of_diffusers_on_karras_steps(pair, noises, monkeypatch):
    """Ours takes its own levels, but tells the network the time that theirs does: some of theirs round it.

    Theirs lie between the ends of the strided steps; those of ``linspace`` are the ends of the process, as ours.
    """
    name, settings, scheduler_name, options = PAIRS[pair]
    scheduler = scheduler_of(
        scheduler_name, "v_prediction", "linear", timestep_spacing="linspace", use_karras_sigmas=True, **options
    )
    schedule = DiscreteSchedule(BETA_SCHEDULES["linear"](TRAINED_STEPS, 1e-4, 0.02))
    sampler = SAMPLERS[name](steps=STEPS, spacing="karras", clip=False, **settings)
    levels = [
        replace(own, time=theirs.time)
        for own, theirs in zip(sampler.levels(schedule), their_levels(scheduler), strict=True)
    ]
    theirs = images_of_diffusers(scheduler, noises, monkeypatch)
    torch.testing.assert_close(ours(sampler, "v", schedule, levels, noises), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("steps", [2, 8, 10, 250])
def test_strided_steps_are_those_of_diffusers(spacing, steps):
    """Theirs are counted from 0.

    Only where the steps divide 1000: else the two round differently. And not for a single step of ``linspace``, which
    diffusers takes at its least noisy time, where pure noise is no image; ours is the noisy end.
    """
    scheduler = diffusers.DDIMScheduler(timestep_spacing=spacing)
    scheduler.set_timesteps(steps)
    schedule = DiscreteSchedule(BETA_SCHEDULES["linear"](TRAINED_STEPS, 1e-4, 0.02))
    levels = SAMPLERS["ddim"](steps=steps, spacing=spacing).levels(schedule)
    assert [round(level.time * TRAINED_STEPS) - 1 for level in levels[:-1]] == scheduler.timesteps.tolist()


@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.995])
def test_dynamic_thresholding_is_that_of_diffusers(quantile):
    scheduler = diffusers.DDPMScheduler(dynamic_thresholding_ratio=quantile, sample_max_value=100)
    clean = 2 * torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(0)) * torch.arange(5).view(-1, 1, 1, 1)
    sampler = SAMPLERS["ddim"](dynamic_threshold=quantile)
    (image,) = sampler.trajectory(
        lambda x, level: clean, clean, [Level(0.6, 0.8, 0.5), Level(1.0, 0.0, 0.0)], lambda: clean
    )
    torch.testing.assert_close(image, scheduler._threshold_sample(clean))


def scheduler_of(name: str, prediction_type: str, betas: str, **options):
    """A scheduler of diffusers that clips nothing, ready for its steps."""
    options = {"timestep_spacing": "trailing", **options}
    if name in ("DDPMScheduler", "DDIMScheduler", "HeunDiscreteScheduler"):
        options["clip_sample"] = False
    scheduler = getattr(diffusers, name)(
        num_train_timesteps=TRAINED_STEPS,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule=THEIR_BETAS[betas],
        prediction_type=prediction_type,
        **options,
    )
    scheduler.set_timesteps(STEPS)
    return scheduler


def test_the_third_order_step_is_theirs_with_the_whole_curve(noises):
    """Of the parabola's second derivative theirs has half, so it is not exact for a parabola; ours is.

    With D2 a divided difference, half the second derivative, the coefficient of the exact integral is twice the one
    that the published code of DPM-Solver++ and diffusers have. test_dpm_solver_pp.py shows ours to be exact.
    """
    clean = noises[:3]
    levels = [Level((1 + ratio**2) ** -0.5, ratio * (1 + ratio**2) ** -0.5, 0.5) for ratio in (4.0, 2.5, 1.2, 0.5)]
    scheduler = scheduler_of("DPMSolverMultistepScheduler", "sample", "linear", solver_order=3)
    scheduler.sigmas = torch.tensor([level.sigma / level.alpha for level in levels], dtype=torch.float64)
    scheduler._step_index = 2
    theirs = scheduler.multistep_dpm_solver_third_order_update(clean, sample=noises[3])
    history = [Estimate(level, each, noises[3]) for level, each in zip(levels, clean, strict=False)]
    ours = SAMPLERS["dpm_solver_pp_3m"]().step(noises[3], history, levels[3], no_second_look, no_second_look)
    first, second = ((history[i + 1].clean - history[i].clean) / way(levels[i], levels[i + 1]) for i in (0, 1))
    half_derivative = (second - first) / way(levels[0], levels[2])
    h = way(levels[2], levels[3])
    other_half = levels[3].alpha * (h**2 / 2 - h - math.expm1(-h)) * half_derivative
    torch.testing.assert_close(ours, (theirs + other_half).to(ours), rtol=0, atol=1e-5)


def way(current: Level[float], next_level: Level[float]) -> float:
    """Return the step from one level to the next in log(alpha / sigma)."""
    return (log_snr(next_level) - log_snr(current)) / 2


def no_second_look(*_):
    pytest.fail("the step takes what it was handed")


def their_levels(scheduler) -> list[Level[float]]:
    """The levels of a scheduler that holds a table of sigma / alpha, with the time that it tells the network."""
    sigmas, times = scheduler.sigmas.double(), scheduler.timesteps.double()
    if type(scheduler).__name__ == "HeunDiscreteScheduler":  # each level but both ends stands there twice
        sigmas, times = sigmas[[0, *range(1, len(sigmas), 2)]], times[[0, *range(1, len(times), 2)]]
    alphas = (1 + sigmas**2).rsqrt()
    times = [*((times + 1) / TRAINED_STEPS).tolist(), 0.0]
    return [Level(*values) for values in zip(alphas.tolist(), (alphas * sigmas).tolist(), times, strict=True)]


def ours(
    sampler: Sampler, prediction: str, schedule: DiscreteSchedule, levels: list[Level[float]], noises: list[Tensor]
) -> Tensor:
    denoiser = Denoiser(FixedNetwork(), schedule, PARAMETERIZATIONS[prediction](), SHAPE)
    first, *others = noises
    draws = iter(others)
    *_, images = sampler.trajectory(denoiser, first, levels, lambda: next(draws))
    return images


def images_of_diffusers(scheduler, noises: list[Tensor], monkeypatch, **options) -> Tensor:
    """Their loop, with our noise."""
    first, *others = noises
    draws: Iterator[Tensor] = chain(others, repeat(torch.zeros(1)))  # some draw once more, for a last step without any
    monkeypatch.setattr(f"{type(scheduler).__module__}.randn_tensor", lambda *_, **__: next(draws), raising=False)
    images = first
    if type(scheduler).__name__ in COUNTS_IN_SIGMA:
        # noisy / alpha of an image of unit variance; diffusers leaves the image out of it where the steps begin at the
        # noisiest, which makes no difference to the method
        images = (scheduler.sigmas[0] ** 2 + 1) ** 0.5 * first
    network = FixedNetwork()
    for step in scheduler.timesteps:
        time = (torch.as_tensor(step).double() + 1).float().reshape(1) / TRAINED_STEPS
        output = network(scheduler.scale_model_input(images, step), time, None)
        images = scheduler.step(output, step, images, **options).prev_sample
    return images
