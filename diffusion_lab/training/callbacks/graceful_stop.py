"""Callback that stops a run at a position it can resume from, once a signal requested it."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from diffusion_lab.training.callbacks.checkpoints import Checkpoints
from diffusion_lab.training.signals import StopRequest


class GracefulStop(Checkpoint):  # Lightning calls checkpoint callbacks last, so all others are done before it saves
    """Saves at the next position that a run can resume from, and stops the run once its metrics are logged.

    These are the end of an optimizer step, after all of its batches, and the end of an epoch, after its validation and
    sample images.

    Args:
        stop: The request to stop.
        checkpoints: The callback that saves.
    """

    def __init__(self, stop: StopRequest, checkpoints: Checkpoints) -> None:
        self.stop = stop
        self.checkpoints = checkpoints
        self.saved_at: int | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.stop.begin()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step_done = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if step_done and not trainer.is_last_batch:
            self._save_if_requested(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save_if_requested(trainer)

    # Metrics of a step are logged after it has ended, so the run stops when the next one would start.

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._stop_if_saved()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_if_saved()

    def _save_if_requested(self, trainer: Trainer) -> None:
        if self.stop.received is not None:
            self.checkpoints.save_now(trainer)
            self.saved_at = trainer.global_step

    def _stop_if_saved(self) -> None:
        if self.saved_at is not None:
            raise self.stop.stopped(self.saved_at)
