"""Noise schedules: the amounts of signal and noise at each time, in float64."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from diffusion_lab.diffusion.level import Level
from diffusion_lab.diffusion.time_distribution import DIFFERENCE, TimeDistribution, UniformTimes
from diffusion_lab.shapes import PerImage, PerStep, Times


class Schedule(ABC):
    """Noise process: alpha and sigma at times in [0, 1], from clean (0) to noise (1)."""

    first_time: float = 0.0
    """The least noisy time that training draws; there ``sigma > 0``."""

    most_steps: int | None = None
    """Largest number of sampling steps; None for continuous processes."""

    usual_times: TimeDistribution = UniformTimes()
    """Default distribution of training times."""

    @abstractmethod
    def levels(self, times: Times) -> Level[Tensor]:
        """Return the level at each time: ``alpha`` and ``sigma`` ``(N,)``, float64, on the CPU."""

    @abstractmethod
    def times(self, log_snr: PerImage) -> Times:
        """Return the times ``(N,)`` with these log-SNRs, ``2 log(alpha / sigma)``, clamped to [0, 1]."""

    def training_times(self, times: Times) -> Times:
        """Return the times used in training for any ``times`` in [0, 1]."""
        return times.clamp(min=self.first_time)

    def nearest_time(self, time: float) -> float:
        """Return the training time nearest to ``time``."""
        return max(time, self.first_time)

    def stride(self, steps: int) -> float:
        """Return the stride between ``steps`` equally spaced times counted from the least noisy one."""
        return 1 / steps

    def check_steps(self, steps: int | None) -> int:
        """Return the number of sampling steps, None resolved.

        Raises:
            ValueError: The process has fewer steps, or None for a continuous process.
        """
        if steps is None:
            raise ValueError(
                "sampler.steps must be a number, got null: that means every step of the noise process, and this one is "
                "continuous and has none. Set for example sampler.steps=250"
            )
        return steps

    def log_snr_slope(self, times: Times) -> PerImage:
        """Return the negative slope of the log-SNR at training times, ``(N,)`` ≥ 0, by central differences.

        It is infinite where no signal is left.
        """
        stride = DIFFERENCE * (times * (1 - times)).clamp(min=DIFFERENCE**2)
        low, high = (times - stride).clamp(min=self.first_time), (times + stride).clamp(max=1)
        return (self._log_snrs(low) - self._log_snrs(high)) / (high - low)

    def _log_snrs(self, times: Times) -> PerImage:
        level = self.levels(times)
        return 2 * (level.alpha / level.sigma).log()

    def time(self, log_snr: float) -> float:
        """Return the time at which the log-SNR is ``log_snr``."""
        return self.times(torch.tensor([log_snr], dtype=torch.float64)).item()

    def level(self, time: float) -> Level[float]:
        """Return the level at one time, as floats."""
        level = self.levels(torch.tensor([time], dtype=torch.float64))
        return Level(level.alpha.item(), level.sigma.item(), time)


class DiscreteSchedule(Schedule):
    """Variance-preserving process of DDPM with T steps, defined by its betas (arXiv:2006.11239, equation 2).

    Step t of the paper, 1 to T, is the time t/T; time 0 is the clean image. Between steps beta is constant, which gives
    the continuous process of arXiv:2011.13456 through the same points.

    Args:
        betas: ``(T,)`` variances of the steps, each in (0, 1).
    """

    def __init__(self, betas: PerStep) -> None:
        self.betas = betas.double()
        self.num_timesteps = self.most_steps = len(betas)
        self.first_time = 1 / self.num_timesteps

    @cached_property
    def log_alpha_bar(self) -> Tensor:
        """Cumulative log of ``1 - beta`` up to each step, ``(T + 1,)``, starting with 0 for the clean image."""
        return torch.cat([torch.zeros(1, dtype=torch.float64), torch.log1p(-self.betas).cumsum(0)])

    def levels(self, times: Times) -> Level[Tensor]:
        position = times.double().cpu() * self.num_timesteps
        below, above = position.floor().long(), position.ceil().long()
        share, table = position - below.double(), self.log_alpha_bar
        between = torch.lerp(table[below], table[above], share)
        # No constant beta reaches pure noise in finite time: there alpha_bar itself is interpolated linearly.
        between = torch.where(table[above].isinf(), table[below] + torch.log1p(-share), between)
        log_alpha_bar = torch.where(share == 0, table[below], between)
        return Level((log_alpha_bar / 2).exp(), torch.expm1(log_alpha_bar).abs().sqrt(), times.double().cpu())

    def times(self, log_snr: PerImage) -> Times:
        log_alpha_bar = torch.nn.functional.logsigmoid(log_snr.double())
        table = -self.log_alpha_bar  # rising, as a search needs it
        above = torch.searchsorted(table, -log_alpha_bar).clamp(1, self.num_timesteps)
        way = -log_alpha_bar - table[above - 1]
        share = torch.where(table[above].isinf(), -torch.expm1(-way), way / (table[above] - table[above - 1]))
        return (above - 1 + share.clamp(0, 1)) / self.num_timesteps

    def training_times(self, times: Times) -> Times:
        return (times.double() * self.num_timesteps).ceil().clamp(min=1) / self.num_timesteps

    def check_steps(self, steps: int | None) -> int:
        if steps is not None and steps > self.num_timesteps:
            raise ValueError(
                f"sampler.steps must be at most model.diffusion.num_timesteps, {self.num_timesteps}, got {steps}: set "
                f"sampler.steps={self.num_timesteps} or fewer; where no steps are given, the default adapts"
            )
        return steps or self.num_timesteps

    def log_snr_slope(self, times: Times) -> PerImage:
        # A step represents all times half-way to its neighbours; the last one those before it.
        half = 0.5 / self.num_timesteps
        low, high = times - half, (times + half).clamp(max=1)
        return (self._log_snrs(low) - self._log_snrs(high)) / (high - low)

    def stride(self, steps: int) -> float:
        return (self.num_timesteps // steps) / self.num_timesteps

    def nearest_time(self, time: float) -> float:
        position = round(time * self.num_timesteps, 6)  # halves go to the even step in spite of rounding
        return max(round(position), 1) / self.num_timesteps


def enforce_zero_terminal_snr(betas: PerStep) -> PerStep:
    """Rescale betas so that no signal is left at the last step; the first step stays (arXiv:2305.08891, algorithm 1).

    Raises:
        ValueError: There is only one step.
    """
    if len(betas) == 1:
        raise ValueError("model.diffusion.zero_terminal_snr needs at least 2 num_timesteps, got 1")
    alpha = (1 - betas).cumprod(0).sqrt()
    alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
    alpha_bar = torch.cat([torch.ones(1, dtype=alpha.dtype), alpha.square()])
    return 1 - alpha_bar[1:] / alpha_bar[:-1]


def linear_betas(num_timesteps: int, beta_start: float, beta_end: float) -> PerStep:
    """Return linearly spaced betas (arXiv:2006.11239, section 4)."""
    return torch.linspace(beta_start, beta_end, num_timesteps, dtype=torch.float64)


def quadratic_betas(num_timesteps: int, beta_start: float, beta_end: float) -> PerStep:
    """Return betas whose square roots are linearly spaced (latent diffusion, arXiv:2112.10752, "scaled linear")."""
    return torch.linspace(beta_start**0.5, beta_end**0.5, num_timesteps, dtype=torch.float64) ** 2


def sigmoid_betas(num_timesteps: int, beta_start: float, beta_end: float) -> PerStep:
    """Return betas along a sigmoid from -6 to 6 (GeoDiff, arXiv:2203.02923)."""
    ramp = torch.linspace(-6, 6, num_timesteps, dtype=torch.float64).sigmoid()
    return beta_start + (beta_end - beta_start) * ramp


def cosine_betas(num_timesteps: int, beta_start: float, beta_end: float) -> PerStep:
    """Return betas of a squared-cosine ``alpha_bar``, at most 0.999 (arXiv:2102.09672, equation 17).

    ``beta_start`` and ``beta_end`` are ignored.
    """
    steps = torch.arange(num_timesteps + 1, dtype=torch.float64) / num_timesteps
    product = torch.cos((steps + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - product[1:] / product[:-1]).clamp(max=0.999)


BETA_SCHEDULES: dict[str, Callable[[int, float, float], Tensor]] = {
    "linear": linear_betas,
    "cosine": cosine_betas,
    "quadratic": quadratic_betas,
    "sigmoid": sigmoid_betas,
}
