"""Batches of one optimizer step, whose losses are weighted so that the step is that of one large batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from diffusion_lab.diffusion.noise_bands import by_noise_band

Means = Mapping[str, tuple[Tensor, int]]
"""Mean of a metric and the number of images that it is the mean of, by metric name."""


class StepLosses(NamedTuple):
    """Losses of all images of an optimizer step, with the noise-to-signal ratio of each.

    Both are lists of one tensor (N,) per batch.
    """

    losses: list[Tensor]
    ratios: list[Tensor]

    def gradient_factor(self, accumulated: int) -> float:
        """Return the factor by which the gradients must be multiplied to be those of the mean over all images.

        Args:
            accumulated: Number by which the trainer divided the loss of each batch.
        """
        counts = list(map(len, self.losses))
        return accumulated * counts[0] / sum(counts)

    def means(self, name: str) -> Means:
        """Return the mean of all losses and of each band of noise levels."""
        return loss_means(name, torch.cat(self.losses), torch.cat(self.ratios))


class AccumulationWindow:
    """Collects the batches of an optimizer step.

    With accumulation the trainer divides each loss by the number of batches per step, even if an epoch's last step has
    fewer or its last batch is smaller. ``batch_weight`` and ``StepLosses.gradient_factor`` correct this.
    """

    def __init__(self) -> None:
        self._batches = StepLosses([], [])

    def add(self, losses: Tensor, ratios: Tensor) -> None:
        """Add the losses (N,) of the images of a batch, and their noise-to-signal ratios (N,)."""
        self._batches.losses.append(losses.detach())
        self._batches.ratios.append(ratios)

    @property
    def batch_weight(self) -> float:
        """Weight of the mean loss of the newest batch: its number of images relative to the first batch."""
        return len(self._batches.losses[-1]) / len(self._batches.losses[0])

    def close(self) -> StepLosses:
        """Return the batches of the step, and begin the next one."""
        step, self._batches = self._batches, StepLosses([], [])
        return step


def loss_means(name: str, losses: Tensor, ratios: Tensor) -> Means:
    """Return the mean of losses (N,) and of each band of noise-to-signal ratios (N,), by metric name."""
    means = {name: (losses.mean(), len(losses))}
    for band, mean_and_count in by_noise_band(losses, ratios).items():
        means[f"{name}_at_{band}_noise"] = mean_and_count
    return means
