"""Callback that ends a run early, at a position that a longer run can resume from."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping

from diffusion_lab.training.callbacks.checkpoints import Checkpoints


def is_last_epoch(trainer: Trainer) -> bool:
    """Return whether the current epoch is the last one, as far as is known by now."""
    return trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs


class TrainingLimits(Checkpoint):  # Lightning calls checkpoint callbacks last, so all others are done before it saves
    """Ends the run after ``max_steps`` or ``max_time``, or when another callback sets ``trainer.should_stop``.

    The run ends after an optimizer step. If that is in the middle of an epoch, the state is saved before the final
    validation, so that a longer run continues as if it had not been interrupted.

    Args:
        checkpoints: The callback that saves.
        max_steps: Optimizer steps of the complete run; None for no limit.
        max_time: Training time of the complete run, with that of the earlier parts that had this limit; None for no
            limit.
        done: Whether the checkpoint that the run resumes from is from the end of the run, so that no step is made.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        max_steps: int | None = None,
        max_time: timedelta | None = None,
        done: bool = False,
    ) -> None:
        self.checkpoints = checkpoints
        self.max_steps = max_steps
        self.max_time = max_time
        self.done = done
        self.ended_within_epoch = False
        self._began: float | None = None
        self._earlier = 0.0  # seconds before the run was resumed
        self._stop_after_step = False

    @property
    def elapsed(self) -> timedelta:
        """Training time so far."""
        now = 0.0 if self._began is None else time.monotonic() - self._began
        return timedelta(seconds=self._earlier + now)

    def remaining_steps(self, trainer: Trainer) -> int | None:
        """Return the optimizer steps until ``max_steps``; None without this limit."""
        return None if self.max_steps is None else max(self.max_steps - trainer.global_step, 0)

    def reason(self, trainer: Trainer) -> str | None:
        """Return why the run ended, None if it made all epochs."""
        if not trainer.should_stop:
            return None
        if self.max_steps is not None and trainer.global_step >= self.max_steps:
            return f"training.max_steps={self.max_steps}"
        if self._is_time_over():
            return f"training.max_time={self.max_time}"
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        reasons = [each.stopping_reason_message for each in callbacks if isinstance(each, EarlyStopping)]
        return next(filter(None, reasons), "requested by a callback")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.done or self._is_time_over():
            trainer.should_stop = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began = time.monotonic()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._put_off(trainer)  # otherwise this epoch, of no step, would count as done

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches and not trainer.is_last_batch:
            self._put_off(trainer)  # otherwise the gradients of this unfinished step would be lost
            return
        if self._stop_after_step or self.remaining_steps(trainer) == 0 or self._is_time_over():
            trainer.should_stop = True
        if trainer.should_stop and not trainer.is_last_batch:
            self.checkpoints.save_now(trainer)
            self.ended_within_epoch = True

    def state_dict(self) -> dict[str, Any]:
        # Without a limit there is no state, so that equal runs write equal checkpoints.
        return {} if self.max_time is None else {"seconds": self.elapsed.total_seconds()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._earlier = float(state_dict["seconds"])

    def _put_off(self, trainer: Trainer) -> None:
        """Put off a request to stop until the optimizer step is done."""
        self._stop_after_step = self._stop_after_step or trainer.should_stop
        trainer.should_stop = False

    def _is_time_over(self) -> bool:
        return self.max_time is not None and self.elapsed >= self.max_time
