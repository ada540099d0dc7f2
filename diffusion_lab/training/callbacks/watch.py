"""Watches over training: no step from a NaN, no checkpoint of one, a word about a loss that jumps."""

from __future__ import annotations

import logging
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from torch import Tensor
from torch.optim import Optimizer

from diffusion_lab.run_folder import RUN_LOG
from diffusion_lab.training.watching import NonFiniteError, SpikeWatch, gradient_norm

SCALER_STEPS = 32
"""Steps in a row that a gradient scaler may need to find its scale: each halves it, and it begins with 65536."""


class Watch(Callback):
    """Stops the run at a loss or gradient that is NaN or infinite, or leaves the step out; tells of loss spikes.

    On a CPU each step is judged before the optimizer makes it. On a GPU reading a number makes it wait, so what is
    found stays there, and is read in the steps whose metrics are read anyway, and before anything is saved. Whether to
    leave a step out cannot wait, so with ``skip`` a GPU is asked at each step.

    Args:
        skip: Steps in a row that may be left out.
        spike_factor: Of the running mean of the loss, from which on it is told; None never does.
        log_interval: Optimizer steps from one to the next whose metrics are read.
        console: Where it is told; in ``run.log``, too.
    """

    def __init__(self, skip: int, spike_factor: float | None, log_interval: int, console: Console) -> None:
        self.skip = skip
        self.log_interval = log_interval
        self.console = console
        self.spikes = None if spike_factor is None else SpikeWatch(spike_factor)
        self._left_out = 0
        self._loss: Tensor | None = None  # of all batches of this optimizer step
        self._unsettled: Tensor | None = None  # steps in a row whose gradient a scaler made infinite
        self._failed_at: Tensor | None = None  # the first step that failed, 0 for none

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        loss = loss.detach()
        self._loss = loss if self._loss is None else self._loss + loss

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        assert self._loss is not None
        step = trainer.global_step + 1
        norm = pl_module.gradient_norm = gradient_norm(optimizer)
        fine = self._loss.isfinite() & self._is_fine(norm, trainer)
        self._loss = None
        if self.skip:
            self._leave_out_unless(bool(fine), step, optimizer)
            return
        failed_at = torch.zeros_like(fine, dtype=torch.int32) if self._failed_at is None else self._failed_at
        self._failed_at = torch.where(fine | (failed_at > 0), failed_at, step)
        if self._is_read(fine, step):
            self._stop_if_failed()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.spikes is None:
            return
        loss = (outputs["loss"] if isinstance(outputs, dict) else outputs).detach().float()
        self.spikes.see(loss, trainer.global_step)
        spike = self.spikes.found() if self._is_read(loss, trainer.global_step) else None
        if spike is not None:
            self._tell(f"loss spike: {spike.loss:.4g} in step {spike.step}, where its running mean is {spike.mean:.4g}")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._stop_if_failed()

    def state_dict(self) -> dict[str, Any]:
        return {"left_out": self._left_out}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._left_out = state_dict["left_out"]

    def _is_fine(self, norm: Tensor, trainer: Trainer) -> Tensor:
        """Whether a gradient is as it should be; a scaler, which leaves such steps out itself, may make a few."""
        if getattr(trainer.precision_plugin, "scaler", None) is None:
            return norm.isfinite()
        unsettled = torch.zeros_like(norm, dtype=torch.int32) if self._unsettled is None else self._unsettled
        self._unsettled = torch.where(norm.isfinite(), 0, unsettled + 1)
        return self._unsettled <= SCALER_STEPS

    def _is_read(self, found: Tensor, step: int) -> bool:
        return found.device.type == "cpu" or step % self.log_interval == 0

    def _leave_out_unless(self, fine: bool, step: int, optimizer: Optimizer) -> None:
        self._left_out = 0 if fine else self._left_out + 1
        if self._left_out > self.skip:
            raise self._error(step, f", and so were those of the {self.skip} steps before it, which were left out")
        if not fine:
            optimizer.zero_grad(set_to_none=True)  # an optimizer passes over weights without a gradient
            self._tell(f"step {step} left out: its loss or gradient is NaN or infinite")

    def _stop_if_failed(self) -> None:
        if self._failed_at is not None and (step := int(self._failed_at)):
            raise self._error(step)

    def _error(self, step: int, more: str = "") -> NonFiniteError:
        return NonFiniteError(f"the loss or gradient of step {step} is NaN or infinite{more}: training stops unsaved")

    def _tell(self, text: str) -> None:
        self.console.print(f"Warning: {text}", highlight=False, markup=False, soft_wrap=True)
        logging.getLogger(RUN_LOG).warning(text)
