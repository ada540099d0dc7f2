"""Callback that saves checkpoints: the newest, the best, and one every k epochs."""

from __future__ import annotations

import math
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from diffusion_lab.checkpoint.damage import DamagedCheckpointError
from diffusion_lab.checkpoint.files import BEST, newest_valid, step_name, step_of, steps_in
from diffusion_lab.checkpoint.ownership import is_replaceable, is_written_by, refuse_obstacles, remove_checkpoint
from diffusion_lab.faults import ConfigWarning
from diffusion_lab.files.writing import atomic_write, remove_partial_files
from diffusion_lab.training.checkpoint_io import BackgroundCheckpointIO
from diffusion_lab.training.module import DiffusionModule
from diffusion_lab.training.watched_metric import WatchedMetric, metric_value

NEWEST_KEPT = 2
"""Checkpoints kept besides the best and periodic ones: if the newest is damaged, the one before it remains."""


LATEST_STEP = 2**63


class Checkpoints(Checkpoint):
    """Writes ``step_00000230.ckpt`` every ``every_epochs`` epochs, after the last epoch, and for each new best.

    ``best.ckpt`` is a link to the best. The newest two, the best and the periodic ones are kept, or the last
    ``keep_last`` and the best; others that this run wrote are removed once a newer one is complete. Training continues
    while a checkpoint is written; a failure is raised when the next one is due.

    Args:
        folder: Folder of the checkpoints.
        every_epochs: Interval of the periodic checkpoints in epochs; the last epoch is always saved.
        best_only: Whether to keep only the best and the newest, not the periodic ones.
        save_optimizer: Whether to save what a resumed run needs (optimizer, schedule, progress) besides the weights.
        metric: Metric that selects the best; each validation must log it, unless the evaluation does.
        keep_last: Number of checkpoints to keep besides the best: the newest, then periodic ones, then others, newer
            before older. None keeps all periodic ones.
        run_id: Id of the run, which its checkpoints carry; no others are ever removed.
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
        self._periodic: list[int] = []
        self._saved: Path | None = None
        self._pending: Path | None = None
        self._writer: BackgroundCheckpointIO

    @property
    def best_path(self) -> Path:
        return self.folder / BEST

    @property
    def last_path(self) -> Path | None:
        """The newest checkpoint: the last one that this process saved, else the newest valid file in the folder."""
        return self._saved if self._saved and self._saved.is_file() else newest_valid(self.folder)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        writer = trainer.strategy.checkpoint_io
        assert isinstance(writer, BackgroundCheckpointIO)
        self._writer = writer

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._pending is not None and not self._writer.busy:
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
        if (
            trainer.should_stop and not trainer.is_last_batch
        ):  # the run ends in the middle of the epoch, at the position saved before
            self.rank_saved(value, epoch, trainer.global_step)
            return
        is_best = self.metric.is_better(value, self.best)
        is_due = epoch % self.every_epochs == 0
        if not (is_best or is_due or trainer.should_stop or epoch == trainer.max_epochs):
            return
        self._finish()
        if is_best:
            self.best, self.best_epoch, self._best_step = value, epoch, trainer.global_step
        if is_due and not self.best_only:
            self._periodic.append(trainer.global_step)
        self._begin(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._finish()
        if self._saved is not None and self.last_path is None:  # all of them were removed
            self.save_now(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        try:
            self._finish()
        except (OSError, DamagedCheckpointError) as error:  # must not hide the exception that ended the run
            warnings.warn(str(error), stacklevel=2)

    def save_now(self, trainer: Trainer) -> Path:
        """Save the current state as the newest checkpoint, if not done yet; the file is complete on return."""
        self._finish()
        if self._saved is None or not self._saved.is_file() or step_of(self._saved) != trainer.global_step:
            self._begin(trainer)
            self._finish()
        assert self._saved is not None
        return self._saved

    def rank_saved(self, value: float, epoch: int, step: int) -> None:
        """Update the best with the metric of an epoch whose checkpoint was saved before the metric was known."""
        self._finish()
        file = self.folder / step_name(step)
        if self.metric.is_better(value, self.best) and file.is_file():
            self.best, self.best_epoch, self._best_step = value, epoch, step
            self._link_best(file)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_epoch": self.best_epoch, "best_step": self._best_step, "kept": self._periodic}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._periodic = list(state_dict["kept"])
        step = state_dict["best_step"]
        if not all(isinstance(each, int) and 0 <= each < LATEST_STEP for each in (step or 0, *self._periodic)):
            raise ValueError("it names checkpoints of invalid steps")
        best = None if step is None else self.folder / step_name(step)
        if best is None or not best.is_file():  # resumed in another folder, which lacks the best so far
            return
        self.best, self.best_epoch, self._best_step = state_dict["best"], state_dict["best_epoch"], step
        if self.best_path.resolve() != best.resolve():  # a later step was, before resuming from this earlier one
            self._link_best(best)

    def _link_best(self, target: Path) -> None:
        if os.path.lexists(self.best_path) and not is_replaceable(self.best_path, self.run_id):
            refuse_obstacles([self.best_path])
        _link(self.best_path, target)

    def forget_best(self) -> None:
        """Select the best among later checkpoints only; the file of the best so far is kept."""
        if self._best_step is not None:
            self._periodic.append(self._best_step)
        self.best, self.best_epoch, self._best_step = None, None, None

    def _notice_lost_best(self) -> None:
        """Forget the best if its file was removed during the run."""
        step = self._best_step
        if step is None or (self._pending is not None and step_of(self._pending) == step):
            return
        file = self.folder / step_name(step)
        if not file.is_file():
            warnings.warn(
                f"{file}, the best checkpoint so far, was removed: the best is selected again from here on",
                ConfigWarning,
                stacklevel=2,
            )
            self.best, self.best_epoch, self._best_step = None, None, None

    def _begin(self, trainer: Trainer) -> None:
        self._pending = self.folder / step_name(trainer.global_step)
        trainer.save_checkpoint(self._pending, weights_only=not self.save_optimizer)

    def _finish(self) -> None:
        """Wait until the pending checkpoint is complete, then link it if it is the best and remove superseded ones."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        self._writer.wait()
        self._saved = pending
        step = step_of(pending)
        assert step is not None
        if not pending.is_file():
            self._notice_lost_best()
            return
        if step == self._best_step:
            self._link_best(pending)
        self._remove_superseded(step)

    def _remove_superseded(self, current: int) -> None:
        """Remove the checkpoints that the complete checkpoint of the current step supersedes.

        Files of later steps are kept: they are from before the user resumed from an earlier step.
        """
        files = {step: file for file in steps_in(self.folder) if (step := step_of(file)) is not None}
        kept = self._steps_to_keep([step for step in files if step <= current])
        for step, file in files.items():
            if step not in kept and is_written_by(file, self.run_id):
                remove_checkpoint(file)
        remove_partial_files(self.folder)

    def _steps_to_keep(self, done: list[int]) -> set[int | None]:
        """Return the steps to keep of those that are done, which are sorted from the newest on."""
        if self.keep_last is None:
            return {*done[:NEWEST_KEPT], *self._periodic, self._best_step}
        periodic = [step for step in done[1:] if step in self._periodic]
        others = [step for step in done[1:] if step not in self._periodic]
        return {*[*done[:1], *periodic, *others][: self.keep_last], self._best_step}


def _link(link: Path, target: Path) -> None:
    """Atomically link a name to a file in the same folder; copy it if the file system does not support links."""
    with atomic_write(link) as partial:
        partial.unlink(missing_ok=True)
        try:
            partial.symlink_to(target.name)
        except OSError:
            shutil.copy2(target, partial)
