"""Denoising loss: draw a time, add noise, run the network, compare."""

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
from diffusion_lab.shapes import Images, Labels, PerImage, Scalar, per_image


class Trainable(Protocol):
    """Protocol of a denoiser as far as the loss needs it."""

    schedule: Schedule
    parameterization: Parameterization
    num_classes: int | None

    def predict(self, noisy: Images, level: Level[Tensor], label: Labels | None) -> Images:
        """Return the raw output of the network."""


@dataclass(frozen=True)
class DenoisingLoss:
    """Error of the network output (arXiv:2006.11239, equation 14, for the noise), weighted by noise level.

    Args:
        penalty: Loss per pixel, as a function of the error.
        weighting: Weight of each noise level.
        times: Distribution of training times.
        stratified: Draw the times of a batch one in each of N equal quantiles (arXiv:2107.00630, appendix I.1), which
            lowers the variance of the loss; otherwise independently.
        label_dropout: Probability in [0, 1] of dropping the label of an image, so that the network learns the
            unconditional model as well (classifier-free guidance, arXiv:2207.12598, algorithm 1).
    """

    penalty: Penalty = field(default_factory=SquaredError)
    weighting: Weighting = field(default_factory=UniformWeighting)
    times: TimeDistribution = field(default_factory=ProcessTimes)
    stratified: bool = True
    label_dropout: float = 0.0

    def __call__(self, denoiser: Trainable, clean: Images, label: Labels | None, seed: int) -> Scalar:
        """Return the mean loss of a batch, a float32 scalar. Arguments as for ``per_image``."""
        return self.per_image(denoiser, clean, label, seed)[0].mean()

    def per_image(
        self, denoiser: Trainable, clean: Images, label: Labels | None, seed: int
    ) -> tuple[PerImage, Level[Tensor]]:
        """Return the loss of each image ``(N,)`` in float32, and their noise levels.

        Args:
            denoiser: The denoiser to train.
            clean: Images ``(N, C, H, W)`` in [-1, 1].
            label: Class numbers ``(N,)``, or None.
            seed: Seed of times, noise and dropped labels.
        """
        return self.loss_at(denoiser, clean, label, self.draw(clean, seed))

    def draw(self, clean: Images, seed: int) -> Draws:
        """Draw times, noise and dropped labels for a batch of images from a seed."""
        return draw_for_batch(clean, seed, self.stratified)

    def loss_at(
        self, denoiser: Trainable, clean: Images, label: Labels | None, draws: Draws
    ) -> tuple[PerImage, Level[Tensor]]:
        """Return the loss of each image for given draws; otherwise as ``per_image``."""
        times = self.times.quantile(draws.share, denoiser.schedule)
        level = denoiser.schedule.levels(denoiser.schedule.training_times(times))
        noisy = per_image(level.alpha, clean) * clean + per_image(level.sigma, clean) * draws.noise
        output = denoiser.predict(noisy, level, self._hide(denoiser, label, draws.hidden))
        clean_share, noise_share = denoiser.parameterization.target(level)
        target = per_image(clean_share, clean) * clean + per_image(noise_share, clean) * draws.noise
        costs = self.penalty(output.float(), target).flatten(1).mean(1)
        return self._weights(denoiser, level, draws.share).to(costs) * costs, level

    def _weights(self, denoiser: Trainable, level: Level[Tensor], share: PerImage) -> PerImage:
        """Return weights ``(N,)`` at levels drawn at the quantiles ``share`` of the distribution of times."""
        weights = self.weighting.penalty_weight(level, denoiser.parameterization, self.penalty.degree)
        if not self.weighting.per_log_snr:
            return weights
        # Divide by the density of log-SNR, that is, multiply by its derivative with respect to the quantile. Where no
        # signal is left the derivative is unbounded, and its product with the weight tends to zero.
        strides = self.times.slope(share, denoiser.schedule) * denoiser.schedule.log_snr_slope(level.time)
        return torch.where(strides.isfinite(), weights * strides, 0)

    def _hide(self, denoiser: Trainable, label: Labels | None, hidden: PerImage) -> Labels | None:
        if label is None or denoiser.num_classes is None or self.label_dropout == 0:
            return label
        return label.masked_fill((hidden < self.label_dropout).to(label.device), denoiser.num_classes)
