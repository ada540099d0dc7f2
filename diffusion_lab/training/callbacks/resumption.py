"""Lets a resumed run begin anew in part: a fresh optimizer, a fresh learning-rate schedule, batches of another size."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from diffusion_lab.training.lr_schedules import present_rates


class Resumption(Callback):
    """Changes in a checkpoint what the user wants otherwise, before the trainer restores it.

    Args:
        reset_optimizer: Forget the optimizer's running averages.
        reset_scheduler: Begin the schedule, and with it the learning rate, as the settings say.
        batches_done: How many batches of the present size the images are that an unfinished epoch has seen.
    """

    def __init__(self, reset_optimizer: bool, reset_scheduler: bool, batches_done: int = 0) -> None:
        self.reset_optimizer = reset_optimizer
        self.reset_scheduler = reset_scheduler
        self.batches_done = batches_done
        self._fresh_rates: list[float] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # The optimizer exists by now, and nothing has been restored into it.
        self._fresh_rates = [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        # Lightning restores pairwise: from an empty list nothing.
        if self.reset_optimizer:
            checkpoint["optimizer_states"] = []
        if self.reset_scheduler:
            checkpoint["lr_schedulers"] = []
        if self.batches_done:
            counts = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
            more = self.batches_done - counts["ready"]
            counts.update({name: count + more for name, count in counts.items()})

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # The rate that the schedule has at this place: neither that of a fresh optimizer, nor, where the run became
        # longer, that of the end of the shorter one.
        rates = [rate for entry in trainer.lr_scheduler_configs for rate in present_rates(entry.scheduler)]
        if not rates and self.reset_scheduler:
            rates = self._fresh_rates
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        for group, rate in zip(groups, rates, strict=bool(rates)):
            group["lr"] = rate
