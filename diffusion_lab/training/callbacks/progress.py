"""Callback that shows training progress: a bar on a terminal, otherwise one line per epoch."""

from __future__ import annotations

import math
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from diffusion_lab.shapes import Batch
from diffusion_lab.training.callbacks.training_limits import TrainingLimits
from diffusion_lab.training.watched_metric import format_metric

REFRESH_SECONDS = 1.0
"""Drawing the bar takes milliseconds."""


class TrainingProgress(Callback):
    """One progress bar for all epochs: epoch, loss, images per second, time left.

    If the watched metric is not ``val/loss``, its newest value is shown next to the loss.

    Args:
        console: Console of the bar; standard error if None, so that standard output contains results only.
        metric: Name of the watched metric.
        limits: Limits of the run, for the time left; None if it makes all epochs.
    """

    def __init__(
        self, console: Console | None = None, metric: str = "val/loss", limits: TrainingLimits | None = None
    ) -> None:
        self.metric = metric
        self.limits = limits
        self.console = console or Console(stderr=True)
        self.images = 0
        self.seconds = 0.0
        self._loss: Tensor | None = None
        self._watched = ""
        self._batches_done = 0
        self._epoch_began = self._shown_at = 0.0
        self._epoch_images = 0
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    @property
    def images_per_second(self) -> float:
        """Training images per second so far, without the time of validation and sample images."""
        return self.images / self.seconds if self.seconds else 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._batches_done = trainer.fit_loop.epoch_loop.total_batch_idx + 1
        self._epoch_began = time.monotonic()  # on_train_epoch_start is not called for an epoch resumed in its middle
        if not self.console.is_terminal:
            return
        self._progress = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            TextColumn("loss {task.fields[loss]}  {task.fields[watched]}{task.fields[speed]} images/s "),
            TimeElapsedColumn(),
            TextColumn("done,"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self.console,
            auto_refresh=False,  # a thread that draws ten times per second would slow down training
        )
        self._task = self._progress.add_task(
            "",
            total=self._total(trainer),
            completed=self._batches_done,
            epoch="-",
            loss="-",
            watched="",
            speed="-",
        )
        self._progress.start()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_began = time.monotonic()
        self._epoch_images = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self._batches_done += 1
        self._epoch_images += len(batch.images)
        # The trainer divides the loss of a batch by the number of batches of an optimizer step.
        loss = (outputs["loss"] if isinstance(outputs, dict) else outputs).detach() * trainer.accumulate_grad_batches
        # A tensor, since reading a number would synchronize with the GPU.
        self._loss = loss if self._loss is None else self._loss.lerp(loss, 0.05)
        now = time.monotonic()
        if now - self._shown_at >= REFRESH_SECONDS:
            self._shown_at = now
            self._show(trainer)
        if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._count_epoch()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.metric != "val/loss" and self.metric in trainer.callback_metrics:
            self._watched = f"{self.metric} {format_metric(float(trainer.callback_metrics[self.metric]))}  "
        self._show(trainer)
        if self._progress is None and self._loss is not None:
            known, names = trainer.callback_metrics, dict.fromkeys(("val/loss", self.metric))
            validation = "".join(f"  {name} {format_metric(float(known[name]))}" for name in names if name in known)
            self.console.print(
                f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  loss {float(self._loss):.4f}{validation}"
                f"  {self.images_per_second:.0f} images/s",
                highlight=False,
            )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def _count_epoch(self) -> None:
        self.images += self._epoch_images
        self.seconds += time.monotonic() - self._epoch_began

    def _show(self, trainer: Trainer) -> None:
        if self._progress is None or self._task is None or self._loss is None:
            return
        elapsed = time.monotonic() - self._epoch_began
        self._progress.update(
            self._task,
            refresh=True,
            total=self._total(trainer),
            completed=self._batches_done,
            epoch=f"{trainer.current_epoch + 1}/{trainer.max_epochs}",
            loss=f"{float(self._loss):.4f}",
            watched=self._watched,
            speed=f"{self._epoch_images / elapsed:.0f}" if elapsed else "-",
        )

    def _total(self, trainer: Trainer) -> int:
        """Return the number of batches of the complete run, estimated from the time so far if that is limited."""
        total = int(trainer.num_training_batches) * (trainer.max_epochs or 1)
        if self.limits is None:
            return total
        steps = self.limits.remaining_steps(trainer)
        if steps is not None:
            total = min(total, self._batches_done + steps * trainer.accumulate_grad_batches)
        if self.limits.max_time is not None and self.limits.elapsed:
            total = min(total, math.ceil(self._batches_done * (self.limits.max_time / self.limits.elapsed)))
        return total

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
