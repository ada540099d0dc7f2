"""The denoising loss: draw a time, add noise, ask the network, compare."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from diffusion_lab.diffusion.draws import Draws, draw_for_batch
from diffusion_lab.diffusion.level import Level
from diffusion_lab.diffusion.parameterization import Parameterization
from diffusion_lab.diffusion.penalty import Penalty, SquaredError
from diffusion_lab.diffusion.schedules import Schedule
from diffusion_lab.diffusion.time_distribution import ProcessTimes, TimeDistribution
from diffusion_lab.diffusion.weighting import UniformWeighting, Weighting
from diffusion_lab.shapes import Images, Labels, per_image


class Trainable(Protocol):
    """What the loss needs of a denoiser."""

    schedule: Schedule
    parameterization: Parameterization
    num_classes: int | None

    def predict(self, noisy: Images, level: Level[Tensor], label: Labels | None) -> Tensor:
        """The network's own output."""


@dataclass(frozen=True)
class DenoisingLoss:
    """The error of the network's output (arXiv:2006.11239, equation 14, for the noise), weighted by noise level.

    Args:
        penalty: What an error of the output costs.
        weighting: How much it counts at each noise level.
        times: How often each noise level is visited.
        stratified: Spread the times of a batch evenly, one in each of N equal shares (arXiv:2107.00630, appendix I.1):
            the loss varies less from batch to batch. Otherwise each is drawn by itself.
        label_dropout: Probability in [0, 1] with which an image's label is hidden, so that the one network learns
            the unconditional model as well (classifier-free guidance, arXiv:2207.12598, algorithm 1).
    """

    penalty: Penalty = field(default_factory=SquaredError)
    weighting: Weighting = field(default_factory=UniformWeighting)
    times: TimeDistribution = field(default_factory=ProcessTimes)
    stratified: bool = True
    label_dropout: float = 0.0

    def __call__(self, denoiser: Trainable, clean: Images, label: Labels | None, seed: int) -> Tensor:
        """The loss of a batch, a scalar in float32. Arguments as of ``per_image``."""
        return self.per_image(denoiser, clean, label, seed)[0].mean()

    def per_image(
        self, denoiser: Trainable, clean: Images, label: Labels | None, seed: int
    ) -> tuple[Tensor, Level[Tensor]]:
        """The loss of each image ``(N,)`` in float32, and the noise levels it was taken at.

        Args:
            denoiser: What is trained.
            clean: Images ``(N, C, H, W)`` in [-1, 1].
            label: Class numbers ``(N,)``, or None.
            seed: Of the times, the noise and the dropped labels.
        """
        return self.loss_at(denoiser, clean, label, self.draw(clean, seed))

    def draw(self, clean: Images, seed: int) -> Draws:
        """Draw times, noise and hidden labels for a batch of images from a seed."""
        return draw_for_batch(clean, seed, self.stratified)

    def loss_at(
        self, denoiser: Trainable, clean: Images, label: Labels | None, draws: Draws
    ) -> tuple[Tensor, Level[Tensor]]:
        """The loss of each image at given times, noise and hidden labels; otherwise as ``per_image``."""
        times = self.times.quantile(draws.share, denoiser.schedule)
        level = denoiser.schedule.levels(denoiser.schedule.training_times(times))
        noisy = per_image(level.alpha, clean) * clean + per_image(level.sigma, clean) * draws.noise
        output = denoiser.predict(noisy, level, self._hide(denoiser, label, draws.hidden))
        clean_share, noise_share = denoiser.parameterization.target(level)
        target = per_image(clean_share, clean) * clean + per_image(noise_share, clean) * draws.noise
        costs = self.penalty(output.float(), target).flatten(1).mean(1)
        return self._weights(denoiser, level, draws.share).to(costs) * costs, level

    def _weights(self, denoiser: Trainable, level: Level[Tensor], share: Tensor) -> Tensor:
        """Weights ``(N,)`` at levels that were drawn at these quantiles ``share`` of the distribution of times."""
        weights = self.weighting.penalty_weight(level, denoiser.parameterization, self.penalty.degree)
        if not self.weighting.per_log_snr:
            return weights
        # One over the density of log-SNR: what it changes by from quantile to quantile. Where nothing is left of the
        # image that is without bound, and the product with the weight falls to zero.
        strides = self.times.slope(share, denoiser.schedule) * denoiser.schedule.log_snr_slope(level.time)
        return torch.where(strides.isfinite(), weights * strides, 0)

    def _hide(self, denoiser: Trainable, label: Labels | None, hidden: Tensor) -> Labels | None:
        if label is None or denoiser.num_classes is None or self.label_dropout == 0:
            return label
        return label.masked_fill((hidden < self.label_dropout).to(label.device), denoiser.num_classes)
