"""Saves the run: its last state, its best, and one every so many epochs."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint


class Checkpoints(Checkpoint):
    """Writes ``best.ckpt``, ``last.ckpt`` and ``epoch_0010.ckpt``, ``epoch_0020.ckpt`` and so on.

    Args:
        folder: Where they go.
        every_epochs: Epochs from one to the next; the last epoch is always saved.
        best_only: Keep no ``epoch_….ckpt`` files, only the best and the last.
        save_optimizer: Save what a resumed run needs (optimizer, schedule, progress), not the weights alone.
        metric: Logged name, the smaller the better, by which the best is chosen.
    """

    def __init__(self, folder: Path, every_epochs: int, best_only: bool, save_optimizer: bool, metric: str) -> None:
        self.folder = folder
        self.every_epochs = every_epochs
        self.best_only = best_only
        self.save_optimizer = save_optimizer
        self.metric = metric
        self.best: float | None = None
        self.best_epoch: int | None = None

    @property
    def best_path(self) -> Path:
        return self.folder / "best.ckpt"

    @property
    def last_path(self) -> Path:
        return self.folder / "last.ckpt"

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Validation of this epoch has run by now; in an epoch without one, the metric is that of an earlier epoch.
        epoch = trainer.current_epoch + 1
        validated = trainer.enable_validation and epoch % (trainer.check_val_every_n_epoch or 1) == 0
        value = float(trainer.callback_metrics.get(self.metric, math.nan))
        if validated and math.isfinite(value) and (self.best is None or value < self.best):
            self.best, self.best_epoch = value, epoch
            self._save(trainer, self.best_path)
        is_last_epoch = epoch == trainer.max_epochs
        if epoch % self.every_epochs == 0 or is_last_epoch:
            self._save(trainer, self.last_path)
            if not self.best_only:
                _same_file(self.last_path, self.folder / f"epoch_{epoch:04d}.ckpt")

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.best_path.is_file():  # resumed in another folder, the best so far is not there: begin anew
            self.best, self.best_epoch = state_dict["best"], state_dict["best_epoch"]

    def save_now(self, trainer: Trainer) -> Path:
        """Save the present state as the newest checkpoint."""
        self._save(trainer, self.last_path)
        return self.last_path

    def _save(self, trainer: Trainer, path: Path) -> None:
        trainer.save_checkpoint(path, weights_only=not self.save_optimizer)


def _same_file(source: Path, target: Path) -> None:
    """Give a file a second name; where the file system has no links, copy it."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
