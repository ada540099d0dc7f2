"""Callback that shows training progress: two lines that change on a terminal, otherwise lines now and then."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from torch import Tensor

from diffusion_lab.metric_names import is_evaluated
from diffusion_lab.shapes import Batch
from diffusion_lab.training.callbacks.training_limits import TrainingLimits, is_last_epoch
from diffusion_lab.training.progress_text import Progress, file_line, terminal_lines

if TYPE_CHECKING:
    from rich.live import Live

REFRESH_SECONDS = 1.0
"""Drawing the lines takes milliseconds."""

FIRST_EPOCHS, MOST_EPOCH_LINES = 10, 100
"""Epochs that all have a line in a file, and lines in all: of more epochs, every second, third, … has one."""

SILENCE_SECONDS = (10.0, 600.0)
"""Shortest and longest time without a line in a file; in between it is a tenth of the time so far."""

VAL_LOSS = "val/loss"


class TrainingProgress(Callback):
    """Shows epoch, step, loss, quality of the samples, images per second, and the time left.

    The quality is the newest value of the watched metric; if that is the loss, of the first metric of the evaluation of
    samples, and without one, of the validation loss.

    Args:
        console: Console to write to; standard error if None, so that standard output contains results only.
        metric: Name of the watched metric.
        limits: Limits of the run, for the time left; None if it makes all epochs.
        steps: Optimizer steps of the complete run, which may have begun with another batch size; None to compute them.
    """

    def __init__(
        self,
        console: Console | None = None,
        metric: str = VAL_LOSS,
        limits: TrainingLimits | None = None,
        steps: int | None = None,
    ) -> None:
        self.metric = metric
        self.limits = limits
        self.steps = steps
        self.console = console or Console(stderr=True)
        self.images = 0
        self.seconds = 0.0
        self._loss: Tensor | None = None
        self._values: dict[str, float] = {}
        self._batches_done = 0
        self._first: tuple[int, float] | None = None  # batches done after the first one here, and its time
        self._began = self._epoch_began = self._shown_at = 0.0
        self._epochs_here = 0
        self._epoch_images = 0
        self._epoch_seconds = 0.0
        self._live: Live | None = None

    @property
    def images_per_second(self) -> float:
        """Training images per second so far, without the time of validation and sample images."""
        return self.images / self.seconds if self.seconds else 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._batches_done = trainer.fit_loop.epoch_loop.total_batch_idx + 1
        # on_train_epoch_start is not called for an epoch resumed in its middle
        self._began = self._epoch_began = self._shown_at = time.monotonic()
        if self.console.is_interactive:
            from rich.live import Live

            # A thread that draws ten times per second would slow down training.
            self._live = Live(console=self.console, auto_refresh=False)
            self._live.start()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_began = time.monotonic()
        self._epoch_images, self._epoch_seconds = 0, 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        now = time.monotonic()
        self._batches_done += 1
        self._epoch_images += len(batch.images)
        self._epoch_seconds = now - self._epoch_began
        # The trainer divides the loss of a batch by the number of batches of an optimizer step.
        loss = (outputs["loss"] if isinstance(outputs, dict) else outputs).detach() * trainer.accumulate_grad_batches
        # A tensor, since reading a number would synchronize with the GPU.
        self._loss = loss if self._loss is None else self._loss.lerp(loss, 0.05)
        if self._first is None:
            self._first = self._batches_done, now
        if now - self._shown_at >= (REFRESH_SECONDS if self._live else silence_after(now - self._began)):
            self._show(trainer)
        if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self.images += self._epoch_images
            self.seconds += self._epoch_seconds

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        known = trainer.callback_metrics
        self._values.update({name: float(known[name]) for name in self._shown_names(trainer) if name in known})
        self._epochs_here += 1
        every = math.ceil((_epochs(trainer) or 1) / MOST_EPOCH_LINES)
        is_shown = self._epochs_here <= FIRST_EPOCHS or (trainer.current_epoch + 1) % every == 0
        if self._live or is_shown or is_last_epoch(trainer):
            self._show(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._live and self._loss is not None:
            self._show(trainer, is_over=True)
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def _shown_names(self, trainer: Trainer) -> list[str]:
        """Return the metrics to show, the quality of samples first."""
        evaluated = (name for name in trainer.callback_metrics if is_evaluated(name))
        quality = self.metric if self.metric != VAL_LOSS else next(evaluated, VAL_LOSS)
        return list(dict.fromkeys((quality, VAL_LOSS)))

    def _show(self, trainer: Trainer, is_over: bool = False) -> None:
        if self._loss is None:
            return
        self._shown_at = time.monotonic()
        progress = self._progress(trainer, float(self._loss), is_over)
        if self._live is None:
            self.console.print(file_line(progress), highlight=False, markup=False, soft_wrap=True)
            return
        from rich.text import Text

        bar = ("=", ">") if self.console.options.ascii_only else ("━", "╸")
        lines = terminal_lines(progress, self.console.width, bar)
        self._live.update(Text("\n".join(lines), no_wrap=True, overflow="crop"), refresh=True)

    def _progress(self, trainer: Trainer, loss: float, is_over: bool) -> Progress:
        now = time.monotonic()
        values = list(self._values.items())
        quality = next((value for value in values if value[0] != VAL_LOSS), None)
        val_loss = self._values.get(VAL_LOSS)
        if quality is None and val_loss is not None:
            quality, val_loss = (VAL_LOSS, val_loss), None
        speed = self._epoch_images / self._epoch_seconds if self._epoch_seconds else None
        return Progress(
            epoch=trainer.current_epoch + (0 if is_over else 1),
            epochs=_epochs(trainer),
            step=trainer.global_step,
            steps=self._steps(trainer),
            loss=loss,
            quality=quality,
            val_loss=val_loss,
            images_per_second=self.images_per_second if is_over else speed,
            elapsed=now - self._began,
            left=None if is_over else self._seconds_left(trainer, now),
            is_over=is_over,
        )

    def _steps(self, trainer: Trainer) -> int | None:
        """Return the optimizer steps of the complete run, as far as they are known before its end."""
        if self.steps is not None:
            return self.steps
        epochs = _epochs(trainer)
        if epochs is None or math.isinf(trainer.num_training_batches):
            return None
        steps = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches) * epochs
        remaining = None if self.limits is None else self.limits.remaining_steps(trainer)
        return steps if remaining is None else min(steps, trainer.global_step + remaining)

    def _seconds_left(self, trainer: Trainer, now: float) -> float | None:
        """Return the time to the end, at the speed so far with its validations and pauses; None if unknown.

        The first batch is left out, since it may compile the network.
        """
        batches = self._batches_left(trainer)
        left = math.inf
        if batches is not None and self._first is not None and self._batches_done > self._first[0]:
            left = batches * (now - self._first[1]) / (self._batches_done - self._first[0])
        if self.limits is not None and self.limits.max_time is not None:
            left = min(left, max((self.limits.max_time - self.limits.elapsed).total_seconds(), 0.0))
        return left if math.isfinite(left) else None

    def _batches_left(self, trainer: Trainer) -> float | None:
        """Return the batches until the last epoch or ``max_steps``; None if unknown."""
        remaining = None if self.limits is None else self.limits.remaining_steps(trainer)
        until_limit = math.inf if remaining is None else remaining * trainer.accumulate_grad_batches
        epochs = _epochs(trainer)
        until_end = math.inf
        if epochs is not None:
            done = trainer.fit_loop.epoch_loop.batch_progress.current.ready
            until_end = (epochs - trainer.current_epoch) * trainer.num_training_batches - done
        left = min(until_limit, until_end)
        return max(left, 0) if math.isfinite(left) else None

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def silence_after(seconds: float) -> float:
    """Return how long a file gets no line, after so many seconds of training.

    >>> [silence_after(seconds) for seconds in (0, 3600, 86400)]
    [10.0, 360.0, 600.0]
    """
    shortest, longest = SILENCE_SECONDS
    return min(max(shortest, seconds / 10), longest)


def _epochs(trainer: Trainer) -> int | None:
    """Return the epochs of the complete run; None without a limit."""
    return trainer.max_epochs if trainer.max_epochs is not None and trainer.max_epochs > 0 else None
