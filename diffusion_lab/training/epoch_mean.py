"""Mean of a training metric over the images of an epoch, kept in checkpoints from the middle of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class EpochMean:
    """Sums a metric over the optimizer steps of an epoch, on the device: the number is read once per epoch.

    Args:
        name: Name of the metric.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._epoch, self._images = -1, 0
        self._total: Tensor | float = 0.0

    def add(self, epoch: int, means: Mapping[str, tuple[Tensor, int]]) -> None:
        """Add the means and numbers of images of a step by metric; a step without the metric is ignored."""
        if epoch != self._epoch:
            self._epoch, self._images, self._total = epoch, 0, 0.0
        if self.name in means:
            mean, images = means[self.name]
            if mean.device.type == "mps":  # it does not support float64
                mean = mean.cpu()
            # Sequentially, so that the sum of a resumed epoch is bitwise equal to that of an uninterrupted one.
            self._total = self._total + mean.to(torch.float64) * images
            self._images += images

    def value(self, epoch: int) -> float | None:
        """Return the mean over an epoch so far; None if it has no images yet."""
        return float(self._total) / self._images if epoch == self._epoch and self._images else None

    def saved(self) -> dict[str, Any]:
        """Return the state as plain containers."""
        return {"name": self.name, "epoch": self._epoch, "images": self._images, "total": float(self._total)}

    def load(self, state: object) -> None:
        """Continue from ``saved``; the state of another metric, or none, is ignored."""
        if isinstance(state, dict) and state.get("name") == self.name:
            self._epoch, self._images, self._total = int(state["epoch"]), int(state["images"]), float(state["total"])
