"""Callback that keeps NaN and infinity out of steps and checkpoints, and reports loss spikes."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from torch import Tensor
from torch.optim import Optimizer

from diffusion_lab.console.messages import sentence
from diffusion_lab.runs.log import RUN_LOG
from diffusion_lab.training.anomalies import NonFiniteError, SpikeDetector, gradient_norm
from diffusion_lab.training.mirror import alert
from diffusion_lab.training.module import DiffusionModule

SCALER_STEPS = 32
"""Consecutive steps that a gradient scaler may need to find its scale: each halves it, starting from 65536."""


class TrainingMonitor(Callback):
    """Stops the run at a loss or gradient that is NaN or infinite, or skips the step; reports loss spikes.

    On a CPU each step is checked before the optimizer makes it. On a GPU reading a number synchronizes, so the values
    stay on the device, and are read in steps that are logged anyway and before anything is saved. Skipping a step
    cannot be delayed, so with ``skip`` the GPU is synchronized at each step.

    Args:
        skip: Number of consecutive steps that may be skipped.
        spike_factor: Ratio of a loss to the running mean at which it is reported as a spike; None to disable.
        log_interval: Optimizer steps between two logged ones.
        console: Console for the warnings, which are also written to ``run.log``.
    """

    def __init__(self, skip: int, spike_factor: float | None, log_interval: int, console: Console) -> None:
        self.skip = skip
        self.log_interval = log_interval
        self.console = console
        self.spikes = None if spike_factor is None else SpikeDetector(spike_factor)
        self._skipped = 0  # consecutive steps
        self._losses: list[Tensor] = []  # of the batches of this optimizer step
        self._unread: list[tuple[int, Tensor]] = []  # steps with their loss and gradient norm
        self._unscaled = 0  # consecutive steps whose gradient a scaler made infinite

    @property
    def state_key(self) -> str:
        """Key of its state in checkpoints, which is that of earlier versions."""
        return "Watch"

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        scale = 1 if scaler is None else scaler.scale(torch.ones_like(loss))  # a tensor: no synchronization with a GPU
        self._losses.append(loss.detach() / scale)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        step = trainer.global_step + 1
        if isinstance(pl_module, DiffusionModule):
            norm = pl_module.gradient_norm(optimizer)  # computed once, for clipping as well
        else:
            norm = gradient_norm(optimizer)
        losses, self._losses = torch.stack(self._losses), []  # each divided by the number of batches
        self._unread.append((step, torch.stack([losses.mean() * trainer.accumulate_grad_batches, norm])))
        if self.skip or norm.device.type == "cpu" or step % self.log_interval == 0:
            self._read(trainer, optimizer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._read(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {"left_out": self._skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._skipped = state_dict["left_out"]

    def _read(self, trainer: Trainer, optimizer: Optimizer | None = None) -> None:
        """Check the steps since the last reading; ``optimizer`` is about to make the newest of them."""
        unread, self._unread = self._unread, []
        if not unread:
            return
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        numbers = torch.stack([values for _, values in unread]).tolist()
        for (step, _), (loss, norm) in zip(unread, numbers, strict=True):
            # a scaler causes a few infinite gradients and skips these steps itself
            self._unscaled = 0 if math.isfinite(norm) else self._unscaled + 1
            if math.isfinite(loss) and self._unscaled <= (SCALER_STEPS if scaled else 0):
                self._skipped = 0
                self._report_spike(step, loss)
            else:
                self._skip(trainer, step, optimizer)

    def _skip(self, trainer: Trainer, step: int, optimizer: Optimizer | None) -> None:
        self._skipped += 1
        if self._skipped > self.skip or optimizer is None:
            before = f", and so were those of the {self.skip} steps before it, which were skipped" if self.skip else ""
            raise NonFiniteError(
                f"the loss or gradient of step {step} is NaN or infinite{before}: training stops without saving"
            )
        optimizer.zero_grad(set_to_none=True)  # optimizers ignore weights without a gradient
        text = f"step {step} skipped: its loss or gradient is NaN or infinite"
        self._warn(text)
        alert(trainer.loggers, "NaN or infinite loss", text)

    def _report_spike(self, step: int, loss: float) -> None:
        spike = self.spikes.update(loss, step) if self.spikes else None
        if spike is not None:
            self._warn(f"loss spike: {loss:.4g} in step {step}, where its running mean is {spike.mean:.4g}")

    def _warn(self, text: str) -> None:
        self.console.print(f"Warning: {sentence(text)}", highlight=False, markup=False, soft_wrap=True)
        logging.getLogger(RUN_LOG).warning(text)
