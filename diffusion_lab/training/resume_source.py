"""Checkpoint that a run resumes from, and the position in training that it was saved at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusion_lab.checkpoint import Checkpoint, find_checkpoint, read_checkpoint
from diffusion_lab.checkpoint.export import EXPORT_SUFFIX
from diffusion_lab.checkpoint.files import named_steps, newest_valid
from diffusion_lab.checkpoint.ownership import format_paths
from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.runs.folder import RunFolder
from diffusion_lab.training.foreign_state import epochs_done


@dataclass(frozen=True)
class ResumePosition:
    """Position in the training data at which a checkpoint was saved, as the data module saves it.

    ``samples_seen`` of the epoch's ``length`` images are done, in steps of ``step_size`` over all devices.
    """

    epoch: int
    samples_seen: int
    step_size: int
    length: int | None = None


@dataclass(frozen=True)
class ResumeSource:
    """Checkpoint that a run resumes from.

    It does not keep the weights: only the check of the architecture needs them, and the trainer loads them again.

    Args:
        path: The checkpoint.
        step: Optimizer steps done.
        epochs_done: Epochs done; None in files that were not written by a training run.
        config: The settings of the run that wrote it.
        position: Position in the data; None if the file does not contain it.
        wandb_id: Id of the run on W&B.
        run_id: Id of the run that wrote it; None in files of earlier versions.
        foreign: Whether another program wrote it. The number of steps done then depends on the images.
    """

    path: Path
    step: int | None
    epochs_done: int | None
    config: Mapping[str, Any]
    position: ResumePosition | None
    wandb_id: str | None
    run_id: str | None
    foreign: bool = False

    @property
    def seed(self) -> int | None:
        seed: int | None = self.config.get("compute", {}).get("seed")
        return seed

    @property
    def run_folder(self) -> Path:
        """Folder of the run that wrote it."""
        inside = self.config.get("output", {}).get("subdirs", {}).get("checkpoints", "checkpoints")
        return self.path.resolve().parents[len(Path(inside).parts)]

    def is_complete(self, config: TrainConfig) -> bool:
        """Return whether all epochs of the settings are done."""
        return self.epochs_done is not None and self.epochs_done >= config.training.epochs

    def is_at_the_end(self, config: TrainConfig) -> bool:
        """Return whether it was saved exactly after the last step of the settings."""
        return self.epochs_done == config.training.epochs and not (self.position and self.position.samples_seen)


def find_resume_source(config: TrainConfig, folder: RunFolder) -> tuple[ResumeSource, Checkpoint] | None:
    """Return the checkpoint that ``training.resume`` names, and its content; None for a fresh start.

    ``auto`` is the newest valid checkpoint in the run folder, or a fresh start if there is none.

    Raises:
        ValueError, FileNotFoundError: The named file is not a checkpoint, or all that ``auto`` could use are damaged: a
            fresh start would remove them.
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
    if path.suffix == EXPORT_SUFFIX:
        raise ValueError(
            "training.resume.checkpoint must be a checkpoint of a training run or a run folder, not an export, which "
            f"holds weights alone, got {str(path)!r}"
        )
    checkpoint = read_checkpoint(path)
    if checkpoint.foreign is not None and checkpoint.foreign.saved_in_training:
        done = epochs_done(checkpoint.foreign) or 0
        return ResumeSource(path, None, done, {}, None, None, None, foreign=True), checkpoint
    source = ResumeSource(
        path,
        checkpoint.step,
        checkpoint.epochs_done,
        checkpoint.config or {},
        _position(checkpoint.data_position),
        checkpoint.about.get("wandb_id"),
        _run_id(checkpoint.about),
    )
    return source, checkpoint


def _newest(folder: RunFolder) -> Path | None:
    newest = newest_valid(folder.checkpoints)
    candidates = named_steps(folder.checkpoints)
    if newest is None and candidates:
        raise ValueError(
            f"training.resume.checkpoint=auto finds no valid checkpoint in {folder.checkpoints} among "
            f"{format_paths(candidates)}: name one of another folder, or move these away to start from scratch"
        )
    return newest


def _run_id(about: Mapping[str, Any]) -> str | None:
    run_id = about.get("run_id")
    return run_id if isinstance(run_id, str) else None


def _position(order: Mapping[str, Any]) -> ResumePosition | None:
    match order:
        case {"epoch": int(epoch), "samples_seen": int(seen), "step_size": int(step_size)}:
            length = order.get("length")
            return ResumePosition(epoch, seen, step_size, length if isinstance(length, int) else None)
    return None
