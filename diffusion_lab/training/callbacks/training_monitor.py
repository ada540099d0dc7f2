"""Watches over training: no step from a NaN, no checkpoint of one, a word about a loss that jumps."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from torch import Tensor
from torch.optim import Optimizer

from diffusion_lab.messages import sentence
from diffusion_lab.run_log import RUN_LOG
from diffusion_lab.training.anomalies import NonFiniteError, SpikeDetector, gradient_norm

SCALER_STEPS = 32
"""Steps in a row that a gradient scaler may need to find its scale: each halves it, and it begins with 65536."""


class TrainingMonitor(Callback):
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
        self.spikes = None if spike_factor is None else SpikeDetector(spike_factor)
        self._left_out = 0
        self._losses: list[Tensor] = []  # of the batches of this optimizer step
        self._unread: list[tuple[int, Tensor]] = []  # steps with their loss and gradient norm
        self._unsettled = 0  # steps in a row whose gradient a scaler made infinite

    @property
    def state_key(self) -> str:
        """Key of its state in checkpoints, which stays that of earlier versions."""
        return "Watch"

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        scale = 1 if scaler is None else scaler.scale(torch.ones_like(loss))  # no number is read, so no GPU waits
        self._losses.append(loss.detach() / scale)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        step = trainer.global_step + 1
        norm = pl_module.gradient_norm = gradient_norm(optimizer)
        losses, self._losses = torch.stack(self._losses), []  # each divided by the number of batches
        self._unread.append((step, torch.stack([losses.mean() * trainer.accumulate_grad_batches, norm])))
        if self.skip or norm.device.type == "cpu" or step % self.log_interval == 0:
            self._read(trainer, optimizer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._read(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {"left_out": self._left_out}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._left_out = state_dict["left_out"]

    def _read(self, trainer: Trainer, optimizer: Optimizer | None = None) -> None:
        """Judge the steps since the last reading; ``optimizer`` is about to make the newest of them."""
        unread, self._unread = self._unread, []
        if not unread:
            return
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        numbers = torch.stack([found for _, found in unread]).tolist()
        for (step, _), (loss, norm) in zip(unread, numbers, strict=True):
            # a scaler leaves steps of infinite gradients out itself, and makes a few of them
            self._unsettled = 0 if math.isfinite(norm) else self._unsettled + 1
            if math.isfinite(loss) and self._unsettled <= (SCALER_STEPS if scaled else 0):
                self._left_out = 0
                self._look_for_a_spike(step, loss)
            else:
                self._leave_out(step, optimizer)

    def _leave_out(self, step: int, optimizer: Optimizer | None) -> None:
        self._left_out += 1
        if self._left_out > self.skip or optimizer is None:
            before = f", and so were those of the {self.skip} steps before it, which were left out" if self.skip else ""
            raise NonFiniteError(
                f"the loss or gradient of step {step} is NaN or infinite{before}: training stops unsaved"
            )
        optimizer.zero_grad(set_to_none=True)  # an optimizer passes over weights without a gradient
        self._tell(f"step {step} left out: its loss or gradient is NaN or infinite")

    def _look_for_a_spike(self, step: int, loss: float) -> None:
        spike = self.spikes.see(loss, step) if self.spikes else None
        if spike is not None:
            self._tell(f"loss spike: {loss:.4g} in step {step}, where its running mean is {spike.mean:.4g}")

    def _tell(self, text: str) -> None:
        self.console.print(f"Warning: {sentence(text)}", highlight=False, markup=False, soft_wrap=True)
        logging.getLogger(RUN_LOG).warning(text)
