"""Saves the run: its last states, its best, and one every so many epochs."""

from __future__ import annotations

import math
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from diffusion_lab.atomic_files import atomic_write, remove_partial_files
from diffusion_lab.checkpoint.damage import DamagedCheckpointError
from diffusion_lab.checkpoint.files import BEST, newest_valid, step_name, step_of, steps_in
from diffusion_lab.checkpoint.ownership import is_written_by, may_replace, refuse, remove_checkpoint
from diffusion_lab.config.faults import ConfigWarning
from diffusion_lab.training.checkpoint_io import BackgroundCheckpointIO
from diffusion_lab.training.module import DiffusionModule
from diffusion_lab.training.watched_metric import WatchedMetric, metric_value

NEWEST_KEPT = 2
"""Of those that nothing else keeps: where the newest turns out damaged, the one before is there."""


LATEST_STEP = 2**63


class Checkpoints(Checkpoint):
    """Writes ``step_00000230.ckpt`` after every so many epochs and after the last, and for each new best.

    ``best.ckpt`` is a link to the best. The newest two stay, the best, and those of every so many epochs, or the last
    ``keep_last`` and the best; others go when a newer one is whole, if this run wrote them. Training goes on while one
    is written; that it could not be is an error at the next step.

    Args:
        folder: Where they go.
        every_epochs: Epochs from one to the next; the last epoch is always saved.
        best_only: Do not keep those of every so many epochs, only the best and the newest.
        save_optimizer: Save what a resumed run needs (optimizer, schedule, progress), not the weights alone.
        metric: By which the best is chosen; each validation must log it, unless the evaluation gives it.
        keep_last: How many stay beside the best: the newest, then those of every so many epochs, then others, each kind
            from the newest on. None keeps all of every so many epochs.
        run_id: Of the run, which its checkpoints carry; no others are ever removed.
    """

    def __init__(
        self,
        folder: Path,
        every_epochs: int,
        best_only: bool,
        save_optimizer: bool,
        metric: WatchedMetric,
        keep_last: int | None = None,
        run_id: str | None = None,
    ) -> None:
        self.folder = folder
        self.keep_last = keep_last
        self.run_id = run_id
        self.every_epochs = every_epochs
        self.best_only = best_only
        self.save_optimizer = save_optimizer
        self.metric = metric
        self.best: float | None = None
        self.best_epoch: int | None = None
        self._best_step: int | None = None
        self._kept: list[int] = []
        self._saved: Path | None = None
        self._begun: Path | None = None
        self._writer: BackgroundCheckpointIO

    @property
    def best_path(self) -> Path:
        return self.folder / BEST

    @property
    def last_path(self) -> Path | None:
        """The newest one: that which this process has saved last, else what it found."""
        return self._saved if self._saved and self._saved.is_file() else newest_valid(self.folder)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        writer = trainer.strategy.checkpoint_io
        assert isinstance(writer, BackgroundCheckpointIO)
        self._writer = writer

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._begun is not None and not self._writer.busy:
            self._finish()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._notice_lost_best()
        # Validation of this epoch has run by now; in an epoch without one, the metric is that of an earlier epoch.
        epoch = trainer.current_epoch + 1
        validated = trainer.enable_validation and epoch % (trainer.check_val_every_n_epoch or 1) == 0
        if isinstance(pl_module, DiffusionModule) and self.metric.name in pl_module.evaluated:
            value = float(trainer.callback_metrics.get(self.metric.name, math.nan))  # where this epoch was evaluated
        else:
            value = metric_value(trainer, self.metric.name) if validated else math.nan
        is_best = self.metric.is_better(value, self.best)
        is_due = epoch % self.every_epochs == 0
        if not (is_best or is_due or epoch == trainer.max_epochs):
            return
        self._finish()
        if is_best:
            self.best, self.best_epoch, self._best_step = value, epoch, trainer.global_step
        if is_due and not self.best_only:
            self._kept.append(trainer.global_step)
        self._begin(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._finish()
        if self._saved is not None and self.last_path is None:  # somebody removed all of them
            self.save_now(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        try:
            self._finish()
        except (OSError, DamagedCheckpointError) as error:  # what ended the run is told, and this beside it
            warnings.warn(str(error), stacklevel=2)

    def save_now(self, trainer: Trainer) -> Path:
        """Save the present state as the newest checkpoint, unless that is done already; it is whole on return."""
        self._finish()
        if self._saved is None or not self._saved.is_file() or step_of(self._saved) != trainer.global_step:
            self._begin(trainer)
            self._finish()
        assert self._saved is not None
        return self._saved

    def judge_saved(self, value: float, epoch: int, step: int) -> None:
        """Take in the metric of an epoch whose checkpoint was saved before the metric was known."""
        file = self.folder / step_name(step)
        if self.metric.is_better(value, self.best) and file.is_file():
            self.best, self.best_epoch, self._best_step = value, epoch, step
            self._link_best(file)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_epoch": self.best_epoch, "best_step": self._best_step, "kept": self._kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._kept = list(state_dict["kept"])
        step = state_dict["best_step"]
        if not all(isinstance(each, int) and 0 <= each < LATEST_STEP for each in (step or 0, *self._kept)):
            raise ValueError("it names checkpoints of no step")
        best = None if step is None else self.folder / step_name(step)
        if best is None or not best.is_file():  # resumed in another folder: the best so far is not there, begin anew
            return
        self.best, self.best_epoch, self._best_step = state_dict["best"], state_dict["best_epoch"], step
        if self.best_path.resolve() != best.resolve():  # a later one was, before the run went back to this one
            self._link_best(best)

    def _link_best(self, target: Path) -> None:
        if os.path.lexists(self.best_path) and not may_replace(self.best_path, self.run_id):
            refuse([self.best_path])
        _link(self.best_path, target)

    def forget_best(self) -> None:
        """Choose the best anew from here on; the file of the one so far stays."""
        if self._best_step is not None:
            self._kept.append(self._best_step)
        self.best, self.best_epoch, self._best_step = None, None, None

    def _notice_lost_best(self) -> None:
        """Choose the best anew where somebody removed its file while the run is on."""
        step = self._best_step
        if step is None or (self._begun is not None and step_of(self._begun) == step):
            return
        file = self.folder / step_name(step)
        if not file.is_file():
            warnings.warn(
                f"{file}, the best checkpoint so far, was removed: the best is chosen anew from here on",
                ConfigWarning,
                stacklevel=2,
            )
            self.best, self.best_epoch, self._best_step = None, None, None

    def _begin(self, trainer: Trainer) -> None:
        self._begun = self.folder / step_name(trainer.global_step)
        trainer.save_checkpoint(self._begun, weights_only=not self.save_optimizer)

    def _finish(self) -> None:
        """Wait until what was begun is whole; only then the link to the best goes to it, and older ones go."""
        begun, self._begun = self._begun, None
        if begun is None:
            return
        self._writer.wait()
        self._saved = begun
        step = step_of(begun)
        assert step is not None
        if not begun.is_file():
            self._notice_lost_best()
            return
        if step == self._best_step:
            self._link_best(begun)
        self._remove_superseded(step)

    def _remove_superseded(self, present: int) -> None:
        """Remove what the checkpoint of the present step, whole by now, makes superfluous.

        Files of later steps are of a continuation that the user went back from.
        """
        whole = {step: file for file in steps_in(self.folder) if (step := step_of(file)) is not None}
        needed = self._needed([step for step in whole if step <= present])
        for step, file in whole.items():
            if step not in needed and is_written_by(file, self.run_id):
                remove_checkpoint(file)
        remove_partial_files(self.folder)

    def _needed(self, done: list[int]) -> set[int | None]:
        """The steps to keep, of those that are done, the newest first."""
        if self.keep_last is None:
            return {*done[:NEWEST_KEPT], *self._kept, self._best_step}
        periodic = [step for step in done[1:] if step in self._kept]
        others = [step for step in done[1:] if step not in self._kept]
        return {*[*done[:1], *periodic, *others][: self.keep_last], self._best_step}


def _link(link: Path, target: Path) -> None:
    """Make a name point to a file beside it, in one move; where the file system has no links, copy it."""
    with atomic_write(link) as partial:
        partial.unlink(missing_ok=True)
        try:
            partial.symlink_to(target.name)
        except OSError:
            shutil.copy2(target, partial)
