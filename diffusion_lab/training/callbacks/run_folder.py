"""Callback that restores the run folder if it is removed during training."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console

from diffusion_lab.runs.folder import RunFolder


class RunFolderGuard(Callback):
    """Re-creates the run folder at the end of an epoch if it, or a part of it, was removed.

    Args:
        folder: The folder.
        settings: The configuration, which is written to it again.
        console: Console for the warning.

    Raises:
        ValueError: Another run uses the folder by now.
    """

    def __init__(self, folder: RunFolder, settings: dict[str, Any], console: Console) -> None:
        self.folder = folder
        self.settings = settings
        self.console = console
        self._open: dict[Path, int] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._remember()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.restore()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._forget()

    def restore(self) -> None:
        """Re-create the folder now if needed, and warn about what was removed."""
        lost = [path for path, descriptor in self._open.items() if not _is_at(descriptor, path)]
        self.folder.restore(self.settings)
        if lost:
            self._remember()
            names = ", ".join(str(path) for path in lost if path.parent not in lost)
            self.console.print(
                f"Warning: removed during the run: {names}. Training continues, and what is saved from now on is "
                "written there again; checkpoints, sample images and metrics that were in it are lost",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )

    def _remember(self) -> None:
        """Keep the folders open, to detect new ones that a background save may create at the same paths."""
        self._forget()
        self._open = {path: os.open(path, os.O_RDONLY) for path in self.folder.folders}

    def _forget(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open = {}


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
