"""Stopwatch of a training loop: batches, validations, and the time between epochs."""

from __future__ import annotations

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from diffusion_lab.preview.first_steps import synchronize
from diffusion_lab.shapes import Batch

WARM_UP = 3
"""Batches whose time is not representative: memory is allocated, kernels are chosen, a network is compiled."""

SECONDS, FEWEST_BATCHES = 8.0, 8
PATIENCE = 60.0


class Stopwatch(Callback):
    """Times training batches, validations and the time between epochs, and ends the training when that is enough.

    A GPU works behind the program, so a single batch has no time of its own there, but their sum is exact: the device
    is waited for after the warm-up and after the last batch.

    Args:
        device: The device.
        seconds: How long batches are timed after the warm-up.
        fewest: How many are timed at least.
        patience: Seconds after which two timed batches are enough.
    """

    def __init__(
        self, device: torch.device, seconds: float = SECONDS, fewest: int = FEWEST_BATCHES, patience: float = PATIENCE
    ) -> None:
        self.device = device
        self.seconds, self.fewest, self.patience = seconds, fewest, patience
        self.batches: list[float] = []
        self.images: list[int] = []
        self._validations: list[list[float]] = []  # start and batches of each, the last entry being its end
        self._gaps: list[float] = []
        self._began = self._mark = 0.0
        self._epoch_ended: float | None = None

    @property
    def timed(self) -> list[float]:
        """The batches after the warm-up; all if there are no others."""
        return self.batches[self._skipped :]

    @property
    def batch(self) -> float:
        """Mean time of a batch after the warm-up."""
        return sum(self.timed) / len(self.timed)

    @property
    def images_per_second(self) -> float:
        """Images of the batches after the warm-up per second; the last batch of an epoch may be smaller."""
        return sum(self.images[self._skipped :]) / sum(self.timed)

    @property
    def warm_up(self) -> float:
        """Time that the first batches took longer than later ones."""
        first, later = self.batches[: self._skipped], self.timed
        return max(sum(first) - len(first) * sum(later) / len(later), 0.0)

    @property
    def between_epochs(self) -> float:
        """Mean time between two epochs besides validation."""
        return sum(self._gaps) / len(self._gaps) if self._gaps else 0.0

    def validation(self, batches: int) -> float | None:
        """Return the time of a validation of so many batches, of which some were timed; None without any."""
        if not self._validations:
            return None
        usual = self._validations[1:] or self._validations  # the first one warms up
        start, *times, end = (sum(each) / len(usual) for each in zip(*usual, strict=True))
        steady = times[1:-1] or times  # the first one starts the loader, the last one may be smaller
        missing = batches - len(times)
        seconds: float = start + sum(times) + end + max(missing, 0) * sum(steady) / len(steady)
        return seconds

    @property
    def _skipped(self) -> int:
        return min(WARM_UP, len(self.batches) // 2)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began = time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._mark = time.perf_counter()
        if self._epoch_ended is not None:
            self._gaps.append(self._mark - self._epoch_ended)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if len(self.batches) + 1 == WARM_UP:
            synchronize(self.device)
        timed = len(self.batches) + 1 - WARM_UP
        now = time.perf_counter()
        elapsed = sum(self.batches[WARM_UP:]) + now - self._mark
        if (timed >= self.fewest and elapsed >= self.seconds) or (timed >= 2 and now - self._began > self.patience):
            trainer.should_stop = True
        if trainer.should_stop or trainer.is_last_batch:
            synchronize(self.device)
            now = time.perf_counter()
        self.batches.append(now - self._mark)
        self.images.append(len(batch.images))
        self._mark = self._epoch_ended = now

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validations.append([])
        self._lap()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        synchronize(self.device)
        self._lap()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._lap()

    def _lap(self) -> None:
        now = time.perf_counter()
        self._validations[-1].append(now - (self._epoch_ended or now))
        self._epoch_ended = now
