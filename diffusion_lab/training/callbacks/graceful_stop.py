"""Ends the run where it can go on, once a signal asked for it."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from diffusion_lab.training.callbacks.checkpoints import Checkpoints
from diffusion_lab.training.signals import StopRequest


class GracefulStop(
    Checkpoint
):  # a kind that the trainer asks last: what it saves, the other callbacks have brought about
    """Saves at the next place from which a run can go on, and stops the run when its metrics are told.

    Such places are the end of an optimizer step, with all batches that belong to it, and the end of an epoch, with its
    validation and pictures.

    Args:
        stop: Whether to.
        checkpoints: What saves.
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
            self._save_if_asked(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save_if_asked(trainer)

    # The loggers hear of a step only after it has ended, so the run goes on until the next one would begin.

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._leave_if_saved()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._leave_if_saved()

    def _save_if_asked(self, trainer: Trainer) -> None:
        if self.stop.received is not None:
            self.checkpoints.save_now(trainer)
            self.saved_at = trainer.global_step

    def _leave_if_saved(self) -> None:
        if self.saved_at is not None:
            raise self.stop.stopped(self.saved_at)
