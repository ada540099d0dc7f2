"""Callback that updates the exponential moving average (EMA) of the weights."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from diffusion_lab.training.module import DiffusionModule


class EMACallback(Callback):
    """Updates the module's EMA once per optimizer step, also with gradient accumulation."""

    def __init__(self) -> None:
        self._seen_steps = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._seen_steps = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step > self._seen_steps and isinstance(pl_module, DiffusionModule) and pl_module.ema:
            self._seen_steps = trainer.global_step
            pl_module.ema.update(pl_module.denoiser)
