"""The formulas of docs/method.md, written out from the page, give what the code gives."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from diffusion_lab.diffusion.continuous import ContinuousCosineSchedule, EDMSchedule, FlowSchedule
from diffusion_lab.diffusion.level import Level
from diffusion_lab.diffusion.parameterization import PARAMETERIZATIONS
from diffusion_lab.diffusion.penalty import PENALTIES
from diffusion_lab.diffusion.schedules import BETA_SCHEDULES, DiscreteSchedule, enforce_zero_terminal_snr
from diffusion_lab.diffusion.time_distribution import TIME_DISTRIBUTIONS
from diffusion_lab.diffusion.weighting import WEIGHTINGS
from diffusion_lab.guidance import _rescale
from diffusion_lab.samplers import SAMPLERS, HeunSampler, Sampler
from diffusion_lab.samplers.base import Estimate
from diffusion_lab.samplers.spacing import SPACINGS

T = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
X, NOISE = torch.randn(2, 7, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
LEVEL, NEXT = Level(0.5, 1.2, 0.6), Level(0.8, 0.7, 0.3)
"""A step that changes both numbers, in no particular process."""


def close(actual: object, expected: object) -> None:
    actual, expected = (torch.as_tensor(value, dtype=torch.float64) for value in (actual, expected))
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("s", [1, 2.5])
def test_continuous_processes(s: float) -> None:
    a = math.atan(math.exp(-15 / 2))
    for schedule, ratio in (
        (ContinuousCosineSchedule(s), s * torch.tan(a + (math.pi / 2 - 2 * a) * T)),
        (FlowSchedule(s), s * T / (1 - T)),
        (EDMSchedule(), 0.002 ** (1 - T) * 80**T),
    ):
        level = schedule.levels(T)
        close(level.sigma / level.alpha, ratio)
        close(schedule.times(-2 * ratio.log()), T)  # log-SNR and noise-to-signal ratio
    cosine, flow, edm = (
        schedule.levels(T) for schedule in (ContinuousCosineSchedule(s), FlowSchedule(s), EDMSchedule())
    )
    close(cosine.alpha**2 + cosine.sigma**2, torch.ones(7))
    close(flow.alpha + flow.sigma, torch.ones(7))
    close(edm.alpha, torch.ones(7))


def test_discrete_processes() -> None:
    count, start, end = 20, 1e-4, 0.02
    steps = torch.arange(count + 1, dtype=torch.float64) / count
    f = torch.cos((steps + 0.008) / 1.008 * math.pi / 2) ** 2
    u = torch.linspace(-6, 6, count, dtype=torch.float64)
    betas = {
        "linear": torch.linspace(start, end, count, dtype=torch.float64),
        "quadratic": torch.linspace(start**0.5, end**0.5, count, dtype=torch.float64) ** 2,
        "sigmoid": start + (end - start) / (1 + torch.exp(-u)),
        "cosine": (1 - f[1:] / f[:-1]).clamp(max=0.999),
    }
    assert betas.keys() == BETA_SCHEDULES.keys()
    for name, expected in betas.items():
        close(BETA_SCHEDULES[name](count, start, end), expected)
        alpha_bar = (1 - expected).cumprod(0)
        level = DiscreteSchedule(expected).levels(steps[1:])
        close(level.alpha, alpha_bar.sqrt())
        close(level.sigma, (1 - alpha_bar).sqrt())
    schedule = DiscreteSchedule(betas["linear"])
    between = [2 * math.log(schedule.level(time).alpha) for time in (0.25, 0.275, 0.3)]
    close(between[1], (between[0] + between[2]) / 2)
    root = (1 - betas["linear"]).cumprod(0).sqrt()
    rescaled = (1 - enforce_zero_terminal_snr(betas["linear"])).cumprod(0).sqrt()
    close(rescaled, root[0] / (root[0] - root[-1]) * (root - root[-1]))


def levels_of_all_kinds() -> Level[Tensor]:
    """Levels with less and with more variance than one."""
    return Level(
        torch.tensor([0.9, 0.5, 1.0, 1.0, 0.3]).double(), torch.tensor([0.3, 0.5, 3.0, 0.1, 0.95]).double(), T[:5]
    )


def test_parameterizations() -> None:
    level, d = levels_of_all_kinds(), 0.5
    alpha, sigma = level.alpha, level.sigma
    p = alpha**2 + sigma**2
    s, q = p.sqrt().clamp(min=1), alpha**2 * d**2 + sigma**2
    zero, one = torch.zeros_like(p), torch.ones_like(p)
    table = {  # c_skip, c_out, c_in, then the shares of image and noise in the target
        "epsilon": (1 / alpha, -sigma / alpha, 1 / s, zero, one),
        "x0": (zero, one, 1 / s, one, zero),
        "v": (alpha / p, -sigma * s / p, 1 / s, -sigma / s, alpha / s),
        "flow": (1 / (alpha + sigma), -sigma / (alpha + sigma), 1 / s, -one, one),
        "edm": (alpha * d**2 / q, sigma * d / q.sqrt(), 1 / q.sqrt(), sigma / d / q.sqrt(), -alpha * d / q.sqrt()),
    }
    assert table.keys() == PARAMETERIZATIONS.keys()
    for name, (skip, out, into, image, noise) in table.items():
        parameterization = PARAMETERIZATIONS[name]()
        c = parameterization.coefficients(level)
        for actual, expected in zip((c.c_skip, c.c_out, c.c_in), (skip, out, into), strict=True):
            close(actual, expected)
        for actual, expected in zip(parameterization.target(level), (image, noise), strict=True):
            close(actual, expected)


def test_penalties_and_weightings() -> None:
    e, delta = torch.tensor([-2.0, 0.01, 0.3]).double(), 0.1
    formulas = {"mse": e**2, "l1": e.abs(), "huber": 2 * delta * ((e**2 + delta**2).sqrt() - delta)}
    for name, expected in formulas.items():
        close(PENALTIES[name]()(e, torch.zeros(3, dtype=torch.float64)), expected)
    level, d = levels_of_all_kinds(), 0.5
    snr = (level.alpha / level.sigma) ** 2
    weights = {
        "min_snr": snr.clamp(max=5),
        "p2": snr / (1 + snr),
        "edm": (level.sigma**2 + level.alpha**2 * d**2) / (level.sigma**2 * d**2),
        "sigmoid": snr * torch.sigmoid(-snr.log()),
    }
    assert {*weights, "uniform"} == WEIGHTINGS.keys()
    for prediction in PARAMETERIZATIONS.values():
        out = prediction().coefficients(level).c_out.abs()
        close(WEIGHTINGS["uniform"]().penalty_weight(level, prediction(), 2), torch.ones(5))
        for name, expected in weights.items():
            for degree in {penalty.degree for penalty in PENALTIES.values()}:
                close(WEIGHTINGS[name]().penalty_weight(level, prediction(), degree), expected * out**degree)


def test_distributions_of_times() -> None:
    u, schedule = T, EDMSchedule()
    normal = torch.distributions.Normal(0.0, 1.0).icdf(u)
    r = 1 - u
    formulas = {
        "uniform": u,
        "logit_normal": torch.sigmoid(normal),
        "mode": 1 - r - 1.29 * (torch.cos(math.pi / 2 * r) ** 2 - 1 + r),
        "log_normal": schedule.times(-2 * (-1.2 + 1.2 * normal)),
    }
    assert {*formulas, "auto"} == TIME_DISTRIBUTIONS.keys()
    for name, expected in formulas.items():
        close(TIME_DISTRIBUTIONS[name]().quantile(u, schedule), expected)
    usual = [type(schedule.usual_times).__name__ for schedule in (FlowSchedule(), schedule, ContinuousCosineSchedule())]
    assert usual == ["LogitNormalTimes", "LogNormalNoise", "UniformTimes"]


def ddim(x: Tensor, clean: Tensor, sigma: float = NEXT.sigma, level: Level[float] = LEVEL) -> Tensor:
    return sigma / level.sigma * x + (NEXT.alpha - sigma / level.sigma * level.alpha) * clean


def half_log_snr(level: Level[float]) -> float:
    return math.log(level.alpha / level.sigma)


H = half_log_snr(NEXT) - half_log_snr(LEVEL)
BETA = LEVEL.sigma**2 - LEVEL.alpha**2 / NEXT.alpha**2 * NEXT.sigma**2
POSTERIOR = BETA * NEXT.sigma**2 / LEVEL.sigma**2
OLDER, OLD = Level(0.2, 1.5, 0.9), Level(0.35, 1.4, 0.8)
CLEANS = torch.randn(4, 2, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
NOISY, FRESH = torch.randn(2, 2, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def step_of(sampler: Sampler, history_size: int = 3) -> Tensor:
    """Return the step from LEVEL to NEXT after those from OLDER and OLD."""
    history = [Estimate(level, clean, NOISY) for level, clean in zip((OLDER, OLD, LEVEL), CLEANS, strict=False)]
    return sampler.step(
        NOISY, history[-min(history_size, sampler.history_size) :], NEXT, lambda x, at: CLEANS[3], lambda: FRESH
    )


def test_steps_of_first_order() -> None:
    clean = CLEANS[2]
    close(step_of(SAMPLERS["ddim"]()), ddim(NOISY, clean))
    close(step_of(SAMPLERS["euler"]()), ddim(NOISY, clean))
    for name, eta in (("ddim", 0.6), ("euler_ancestral", 1.0)):
        rest = math.sqrt(NEXT.sigma**2 - eta**2 * POSTERIOR)
        close(step_of(SAMPLERS[name](eta=eta)), ddim(NOISY, clean, rest) + eta * POSTERIOR**0.5 * FRESH)  # type: ignore[call-arg]
    mean = (
        LEVEL.alpha / NEXT.alpha * NEXT.sigma**2 / LEVEL.sigma**2 * NOISY + NEXT.alpha * BETA / LEVEL.sigma**2 * clean
    )
    for variance, expected in (("small", POSTERIOR), ("large", BETA)):
        close(step_of(SAMPLERS["ddpm"](variance=variance)), mean + expected**0.5 * FRESH)  # type: ignore[call-arg]


def test_steps_of_higher_order() -> None:
    older, old, clean, ahead = CLEANS
    before = half_log_snr(LEVEL) - half_log_snr(OLD)
    ahead_of_line = clean + H / (2 * before) * (clean - old)
    close(step_of(HeunSampler()), ddim(NOISY, clean + 0.5 * (ahead - clean)))  # more noise than image
    slopes = LEVEL.sigma / LEVEL.alpha / (2 * NEXT.sigma / NEXT.alpha)
    close(step_of(HeunSampler(average="slopes")), ddim(NOISY, clean + slopes * (ahead - clean)))
    close(step_of(SAMPLERS["dpm_solver_pp_2m"]()), ddim(NOISY, ahead_of_line))
    close(step_of(SAMPLERS["unipc"]()), ddim(NOISY, ahead_of_line))
    for eta in (0.4, 1.0):
        noisy = ddim(NOISY, ahead_of_line, NEXT.sigma * math.exp(-eta * H))
        fresh = NEXT.sigma * math.sqrt(1 - math.exp(-2 * eta * H)) * FRESH
        close(step_of(SAMPLERS["dpm_solver_pp_2m_sde"](eta=eta)), noisy + fresh)  # type: ignore[call-arg]
    a, b = parabola(
        [(half_log_snr(level) - half_log_snr(LEVEL), value) for level, value in ((OLDER, older), (OLD, old))]
    )
    first = H + math.exp(-H) - 1
    second = H**2 - 2 * first
    close(step_of(SAMPLERS["dpm_solver_pp_3m"]()), ddim(NOISY, clean) + NEXT.alpha * (first * a + second * b))


def parabola(points: list[tuple[float, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return slope and half the curvature of the parabola through CLEANS[2] at 0 and two other points."""
    matrix = torch.tensor([[place, place**2] for place, _ in points], dtype=torch.float64)
    rises = torch.stack([value - CLEANS[2] for _, value in points])
    slope, curve = torch.linalg.solve(matrix, rises.flatten(1)).view_as(rises)
    return slope, curve


def test_the_corrector_of_unipc() -> None:
    history = [Estimate(level, clean, NOISY) for level, clean in ((OLD, CLEANS[1]), (LEVEL, CLEANS[2]))]
    corrected = SAMPLERS["unipc"]().correct(torch.zeros_like(NOISY), CLEANS[3], NEXT, history)
    a, b = parabola([(half_log_snr(OLD) - half_log_snr(LEVEL), CLEANS[1]), (H, CLEANS[3])])
    places = torch.linspace(0, H, 20_001, dtype=torch.float64)
    weights = torch.exp(places)
    average = [
        float(torch.trapezoid(weights * places**power, places) / torch.trapezoid(weights, places)) for power in (1, 2)
    ]
    expected = ddim(NOISY, CLEANS[2] + average[0] * a + average[1] * b)
    torch.testing.assert_close(corrected, expected, rtol=1e-6, atol=1e-6)
    first_step = SAMPLERS["unipc"]().correct(torch.zeros_like(NOISY), CLEANS[3], NEXT, history[1:])
    close(first_step, ddim(NOISY, (CLEANS[2] + CLEANS[3]) / 2))


def test_churn_and_spacings() -> None:
    schedule, steps, churn = EDMSchedule(), 8, 2.0
    levels = HeunSampler(steps=steps, churn=churn).levels(schedule)
    noisier = [(level, following) for level, following in pairwise(levels) if following.sigma > level.sigma]
    assert len(noisier) == steps - 1  # all but the first, which is the noisiest of the process
    for level, following in noisier:
        close(following.sigma / level.sigma, 1 + min(churn / steps, math.sqrt(2) - 1))
    ratios = {name: [schedule.level(time).sigma for time in SPACINGS[name](steps, schedule)] for name in SPACINGS}
    close([schedule.time(-2 * math.log(ratio)) for ratio in ratios["trailing"]], [1 - i / steps for i in range(steps)])
    for name, transformed in (("log_snr", math.log), ("karras", lambda ratio: ratio ** (1 / 7))):
        strides = torch.tensor([transformed(ratio) for ratio in ratios[name]], dtype=torch.float64).diff()
        close(strides, strides.mean().expand(steps - 1))


def test_rescaled_guidance() -> None:
    guided, conditional, share = NOISY, CLEANS[0], 0.7
    ratio = conditional.flatten(1).std(dim=1) / guided.flatten(1).std(dim=1)
    close(_rescale(guided, conditional, share), (1 + share * (ratio - 1)).view(-1, 1, 1, 1) * guided)
