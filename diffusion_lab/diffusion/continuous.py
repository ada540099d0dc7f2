"""Continuous-time noise processes, which can be sampled in any number of steps.

Each is defined by the noise-to-signal ratio ``sigma / alpha`` as a function of time. ``noise_shift`` multiplies that
ratio: larger images need more noise to be equally destroyed (arXiv:2301.11093, section 3.1).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffusion_lab.diffusion.level import Level
from diffusion_lab.diffusion.schedules import Schedule
from diffusion_lab.diffusion.time_distribution import LogitNormalTimes, LogNormalNoise
from diffusion_lab.shapes import PerImage, Times

MAX_LOG_SNR = 15.0


class ContinuousCosineSchedule(Schedule):
    """Cosine schedule: signal and noise are the cosine and sine of an angle (arXiv:2301.11093, section 2).

    The log-SNR runs from 15 to -15, minus twice the logarithm of ``noise_shift``.

    Args:
        noise_shift: Factor of ``sigma / alpha``, > 0; d / 64 in the paper for images of size d.
    """

    def __init__(self, noise_shift: float = 1.0) -> None:
        self.noise_shift = noise_shift
        self._least = math.atan(math.exp(-MAX_LOG_SNR / 2))
        self._range = math.pi / 2 - 2 * self._least

    def levels(self, times: Times) -> Level[Tensor]:
        times = times.double().cpu()
        ratio = self.noise_shift * torch.tan(self._least + self._range * times)
        alpha = (1 + ratio.square()).rsqrt()
        return Level(alpha, ratio * alpha, times)

    def times(self, log_snr: PerImage) -> Times:
        ratio = torch.exp(-log_snr.double() / 2) / self.noise_shift
        return ((torch.atan(ratio) - self._least) / self._range).clamp(0, 1)


class EDMSchedule(Schedule):
    """Variance-exploding process of EDM: ``alpha = 1`` (arXiv:2206.00364).

    Time is linear in the logarithm of sigma, as the noise conditioning of the paper is.

    Args:
        sigma_min, sigma_max: Noise at time 0 and 1, 0 < min < max.
    """

    usual_times = LogNormalNoise()

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0) -> None:
        self._least = math.log(sigma_min)
        self._range = math.log(sigma_max) - math.log(sigma_min)

    def levels(self, times: Times) -> Level[Tensor]:
        times = times.double().cpu()
        return Level(torch.ones_like(times), torch.exp(self._least + self._range * times), times)

    def times(self, log_snr: PerImage) -> Times:
        return ((-log_snr.double() / 2 - self._least) / self._range).clamp(0, 1)


class FlowSchedule(Schedule):
    """Flow matching on straight lines from image to noise: ``alpha = 1 - sigma`` (arXiv:2209.03003, arXiv:2210.02747).

    Args:
        noise_shift: Factor of ``sigma / alpha``, > 0 (the time shift of arXiv:2403.03206, equation 23).
    """

    first_time = 1e-3
    usual_times = LogitNormalTimes()

    def __init__(self, noise_shift: float = 1.0) -> None:
        self.noise_shift = noise_shift

    def levels(self, times: Times) -> Level[Tensor]:
        times = times.double().cpu()
        noise = self.noise_shift * times
        total = 1 - times + noise
        return Level((1 - times) / total, noise / total, times)

    def times(self, log_snr: PerImage) -> Times:
        # ratio / (1 + ratio) with ratio = exp(-log_snr / 2) / shift, without the overflow of a large ratio
        return torch.sigmoid(-log_snr.double() / 2 - math.log(self.noise_shift)).clamp(0, 1)
