"""The checkpoint that a run goes on from: which one it is, and what it says of the place it was saved at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusion_lab.checkpoint import Checkpoint, find_checkpoint, read_checkpoint
from diffusion_lab.checkpoint.files import newest_valid, steps_in
from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.run_folder import RunFolder


@dataclass(frozen=True)
class Place:
    """Where in the data a checkpoint was saved, as the data module tells it.

    ``samples_seen`` of the epoch are done, in steps of ``step_size`` over all devices.
    """

    epoch: int
    samples_seen: int
    step_size: int


@dataclass(frozen=True)
class Origin:
    """What a run goes on from.

    The weights are not kept: only the check of the architecture reads them, and the trainer later reads its own.

    Args:
        path: The checkpoint.
        step: Optimizer steps done.
        epochs_done: Epochs done; None in files that were not written by a training run.
        config: The settings of the run that wrote it.
        place: Where in the data; None where the file does not tell.
        wandb_id: Of the run on W&B.
    """

    path: Path
    step: int | None
    epochs_done: int | None
    config: Mapping[str, Any]
    place: Place | None
    wandb_id: str | None

    @property
    def seed(self) -> int | None:
        seed: int | None = self.config.get("compute", {}).get("seed")
        return seed

    @property
    def run_folder(self) -> Path:
        """The folder of the run that wrote it."""
        inside = self.config.get("output", {}).get("subdirs", {}).get("checkpoints", "checkpoints")
        return self.path.resolve().parents[len(Path(inside).parts)]

    def is_complete(self, config: TrainConfig) -> bool:
        """Whether the epochs of the settings are all done."""
        return self.epochs_done is not None and self.epochs_done >= config.training.epochs


def find_origin(config: TrainConfig, folder: RunFolder) -> tuple[Origin, Checkpoint] | None:
    """What ``training.resume`` asks to go on from, and its content; None for a fresh start.

    ``auto`` is the newest valid checkpoint in the run folder, or a fresh start where there is none.

    Raises:
        ValueError, FileNotFoundError: The checkpoint that the settings name is none, or all that ``auto`` could take
            are damaged: to start afresh would remove them.
    """
    resume = config.training.resume
    if not resume.enabled or resume.checkpoint is None:
        return None
    if resume.checkpoint != "auto":
        path = find_checkpoint(resume.checkpoint, prefer="last")
    elif (newest := _newest(folder)) is not None:
        path = newest
    else:
        return None
    checkpoint = read_checkpoint(path)
    place, wandb_id = _place(checkpoint.order), checkpoint.about.get("wandb_id")
    origin = Origin(path, checkpoint.step, checkpoint.epochs_done, checkpoint.config or {}, place, wandb_id)
    return origin, checkpoint


def _newest(folder: RunFolder) -> Path | None:
    newest = newest_valid(folder.checkpoints)
    damaged = steps_in(folder.checkpoints)
    if newest is None and damaged:
        raise ValueError(
            f"training.resume.checkpoint=auto finds nothing but damaged checkpoints in {folder.checkpoints}, "
            f"{len(damaged)} of them: name one of another folder, or remove them to start afresh"
        )
    return newest


def _place(order: Mapping[str, Any]) -> Place | None:
    match order:
        case {"epoch": int(epoch), "samples_seen": int(seen), "step_size": int(step_size)}:
            return Place(epoch, seen, step_size)
    return None
