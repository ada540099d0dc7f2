"""Callback that evaluates samples at intervals, and logs their metrics along with the losses."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from diffusion_lab.console.messages import explain
from diffusion_lab.faults import ConfigWarning
from diffusion_lab.sampling.finite_samples import NonFiniteSamplesError
from diffusion_lab.training.callbacks.checkpoints import Checkpoints
from diffusion_lab.training.callbacks.rng_state import preserve_rng_state
from diffusion_lab.training.callbacks.training_limits import is_last_epoch
from diffusion_lab.training.module import DiffusionModule
from diffusion_lab.training.sample_evaluation import EvaluationStopped, SampleEvaluation
from diffusion_lab.training.signals import StopRequest
from diffusion_lab.training.watched_metric import format_metric

SECONDS = "val/evaluation_seconds"
"""Name under which the time of an evaluation is logged."""

FAILURES = (ValueError, RuntimeError, OSError, MemoryError)


@dataclass
class Cost:
    """Time that the evaluations of a run take, in seconds.

    Args:
        began: Start of the run, on the clock ``time.monotonic``.
        total: Time taken so far, including the preparation of the evaluations.
    """

    began: float
    total: float = 0.0

    @contextlib.contextmanager
    def measure(self) -> Iterator[None]:
        """Add the time of the block to the total."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.total += time.monotonic() - started

    @property
    def share(self) -> float:
        """Fraction of the time since the start of the run, in [0, 1]."""
        return self.total / max(time.monotonic() - self.began, self.total, 1e-9)


class Evaluation(Callback):
    """Evaluates every ``every_epochs`` epochs and after the last one; training is bitwise the same as without it.

    Values are in ``trainer.callback_metrics`` from the end of their epoch until the next epoch starts. An evaluation
    that fails gives a warning. One that is interrupted by a signal is repeated when the run is resumed.

    Args:
        evaluation: Prepared evaluation.
        every_epochs: Number of epochs between evaluations.
        report: Prints a line and writes it to the run's log.
        stop: Request to stop the run.
        cost: Time of the evaluations.
    """

    def __init__(
        self,
        evaluation: SampleEvaluation,
        every_epochs: int,
        report: Callable[[str], None],
        stop: StopRequest,
        cost: Cost,
    ) -> None:
        self.evaluation = evaluation
        self.every_epochs = every_epochs
        self.report = report
        self.stop = stop
        self.cost = cost
        self._epoch_began = time.monotonic()
        self._interrupted: int | None = None
        self._evaluated_epoch = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if isinstance(pl_module, DiffusionModule):
            pl_module.evaluated = frozenset(self.evaluation.names)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for note in self.evaluation.extractor.notes:
            self.report(note)
        if self.evaluation.null:
            self.report(f"real images in place of samples have {self._describe_null_values()}")
        if self._interrupted is not None:  # a signal now ends the run at once, and the checkpoint keeps this state
            epoch, self._interrupted = self._interrupted, None
            self._evaluate(trainer, pl_module, epoch, trainer.global_step, is_late=True)
        self._epoch_began = time.monotonic()  # also if it is resumed in the middle

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_began = time.monotonic()
        for name in self.evaluation.names:
            trainer.callback_metrics.pop(name, None)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        if epoch % self.every_epochs == 0 or is_last_epoch(trainer):
            self._evaluate(trainer, pl_module, epoch, trainer.global_step - 1)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.should_stop and self._evaluated_epoch != trainer.current_epoch:  # a later callback ended the run
            self._evaluate(trainer, pl_module, trainer.current_epoch, trainer.global_step - 1, is_late=True)

    def state_dict(self) -> dict[str, Any]:
        return {} if self._interrupted is None else {"interrupted": self._interrupted}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._interrupted = state_dict.get("interrupted")

    @property
    def summary(self) -> dict[str, Any]:
        """Settings, null values and cost of the evaluations, for ``summary.json``."""
        return {
            **self.evaluation.facts,
            "every": self.every_epochs,
            "seconds": round(self.cost.total, 2),
            "share_of_time": round(self.cost.share, 4),
        }

    def _describe_null_values(self) -> str:
        count = self.evaluation.settings.num_samples
        return ", ".join(
            f"{name} {format_metric(null.value)}" + (f" ({null.counts})" if null.has_other_counts(count) else "")
            for name, null in self.evaluation.null.items()
        )

    def _evaluate(
        self, trainer: Trainer, pl_module: LightningModule, epoch: int, step: int, is_late: bool = False
    ) -> None:
        """Evaluate and log under a step; ``is_late`` if the checkpoint of the epoch has been saved already."""
        if not isinstance(pl_module, DiffusionModule):
            return
        self._evaluated_epoch = epoch
        began = time.monotonic()
        try:
            with self.cost.measure(), preserve_rng_state():
                values = self.evaluation.values(pl_module.sampler, lambda: self.stop.received is not None)
        except EvaluationStopped:
            self._interrupted = epoch
            later = (
                ""
                if is_last_epoch(trainer) or epoch == trainer.max_epochs
                else ": it is repeated when the run is resumed"
            )
            self.report(f"evaluation after epoch {epoch} interrupted{later}")
            return
        except FAILURES as error:  # a failed evaluation must not end training, which checks its own loss
            reason = error.finding if isinstance(error, NonFiniteSamplesError) else explain(error)
            warnings.warn(f"epoch {epoch} has no evaluation: {reason}", ConfigWarning, stacklevel=2)
            return
        now = time.monotonic()
        seconds = now - began
        share = "" if is_late else f", {seconds / (now - self._epoch_began):.0%} of the time of this epoch"
        self.report(
            f"evaluation after epoch {epoch}: {_format_values(values)} ({self.evaluation.settings.num_samples:,} "
            f"samples in {seconds:.1f} s{share})"
        )
        metrics = {**values, SECONDS: round(seconds, 3), "epoch": epoch - 1}
        for logger in trainer.loggers:  # under the last step of this epoch, as its validation
            logger.log_metrics(metrics, step)
            logger.save()
        self._apply(trainer, pl_module, values, epoch, is_late)

    def _apply(
        self, trainer: Trainer, pl_module: DiffusionModule, values: dict[str, float], epoch: int, is_late: bool
    ) -> None:
        """Pass the values to schedules and checkpoint callbacks."""
        trainer.callback_metrics.update(
            {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}
        )
        pl_module.step_plateau(pl_module.evaluated)
        if is_late:  # the checkpoint of that epoch has already been written
            for callback in trainer.checkpoint_callbacks:
                if isinstance(callback, Checkpoints) and callback.metric.name in values:
                    callback.rank_saved(values[callback.metric.name], epoch, trainer.global_step)


def _format_values(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {format_metric(value)}" for name, value in values.items())
