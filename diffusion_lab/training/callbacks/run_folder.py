"""Keeps the folder of a run there while the run is on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console

from diffusion_lab.run_folder import RunFolder


class RunFolderGuard(Callback):
    """Makes the run folder again at the end of an epoch where somebody removed it, or a part of it.

    Args:
        folder: The folder.
        settings: The configuration, which explains the run again.
        console: Where it is said.

    Raises:
        ValueError: Another run works in the folder by now.
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
        """Do so now, and say what was removed."""
        lost = [place for place, descriptor in self._open.items() if not _is_at(descriptor, place)]
        self.folder.restore(self.settings)
        if lost:
            self._remember()
            names = ", ".join(str(place) for place in lost if place.parent not in lost)
            self.console.print(
                f"Warning: removed while the run is on: {names}. Training continues, and what is saved from now on is "
                "there again; checkpoints, pictures and metrics that were in it are lost",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )

    def _remember(self) -> None:
        """Keep the folders open: what saves in the background may make one again, and it is another one then."""
        self._forget()
        self._open = {place: os.open(place, os.O_RDONLY) for place in self.folder.folders}

    def _forget(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open = {}


def _is_at(descriptor: int, place: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), place.stat())
    except FileNotFoundError:
        return False
