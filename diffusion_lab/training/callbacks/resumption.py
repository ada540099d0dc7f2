"""Lets a resumed run begin anew in part: a fresh optimizer, a fresh learning-rate schedule."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class Resumption(Callback):
    """Drops from a checkpoint what the user wants anew, before the trainer restores it.

    Args:
        reset_optimizer: Forget the optimizer's running averages.
        reset_scheduler: Begin the schedule, and with it the learning rate, as the settings say.
    """

    def __init__(self, reset_optimizer: bool, reset_scheduler: bool) -> None:
        self.reset_optimizer = reset_optimizer
        self.reset_scheduler = reset_scheduler
        self._fresh_rates: list[float] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # The optimizer exists by now, and nothing has been restored into it.
        self._fresh_rates = [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if "optimizer_states" not in checkpoint and not (self.reset_optimizer and self.reset_scheduler):
            raise ValueError(
                "training.resume.checkpoint holds no optimizer state (training.checkpointing.save_optimizer=false): "
                "resume it with training.resume.reset_optimizer=true training.resume.reset_scheduler=true"
            )
        # Lightning restores pairwise: from an empty list nothing.
        if self.reset_optimizer:
            checkpoint["optimizer_states"] = []
        if self.reset_scheduler:
            checkpoint["lr_schedulers"] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.reset_scheduler:
            return
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        for group, rate in zip(groups, self._fresh_rates, strict=True):
            group["lr"] = rate
