"""Checkpoint that a run resumes from, and the position in training that it was saved at."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffusion_lab.checkpoint import Checkpoint, find_checkpoint, read_checkpoint
from diffusion_lab.checkpoint.export import EXPORT_SUFFIX
from diffusion_lab.checkpoint.files import named_steps, newest_valid
from diffusion_lab.checkpoint.ownership import format_paths
from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.console.redaction import redacted, secret_values
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
        metadata: Metadata of the checkpoint.
    """

    path: Path
    step: int | None
    epochs_done: int | None
    config: Mapping[str, Any]
    position: ResumePosition | None
    wandb_id: str | None
    run_id: str | None
    foreign: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def seed(self) -> int | None:
        seed: int | None = self.config.get("compute", {}).get("seed")
        return seed

    @property
    def run_folder(self) -> Path:
        """Folder of the run that wrote it."""
        inside = self.config.get("output", {}).get("subdirs", {}).get("checkpoints", "checkpoints")
        return self.path.resolve().parents[len(Path(inside).parts)]

    @property
    def was_stopped(self) -> bool:
        """Whether a limit or a callback of the settings ended the run that wrote it, here."""
        return bool(self.metadata.get("stopped"))

    def is_complete(self, config: TrainConfig) -> bool:
        """Return whether everything that the settings ask for is done."""
        return self.completion(config) is not None

    def completion(self, config: TrainConfig) -> str | None:
        """Return the setting that makes the run complete at this checkpoint, None if there is more to do."""
        training, before = config.training, self.config.get("training", {})
        if self.epochs_done is not None and self.epochs_done >= training.epochs:
            return "training.epochs"
        if training.max_steps is not None and self.step is not None and self.step >= training.max_steps:
            return "training.max_steps"
        plain = training.model_dump(mode="json")
        now = redacted(plain, secret_values(plain, sys.argv))  # as the checkpoint has them
        same = {name for name in ("max_steps", "max_time", "callbacks") if now[name] == before.get(name)}
        if not self.was_stopped or len(same) < 3:
            return None
        return "training.max_time" if training.max_time is not None else "training.callbacks"

    def is_at_the_end(self, config: TrainConfig) -> bool:
        """Return whether it was saved exactly after the last step of the settings."""
        if self.epochs_done == config.training.epochs and not (self.position and self.position.samples_seen):
            return True
        reached = self.step is not None and self.step == config.training.max_steps
        return reached or (self.was_stopped and self.is_complete(config))


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
        checkpoint.metadata.get("wandb_id"),
        _run_id(checkpoint.metadata),
        metadata=checkpoint.metadata,
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


def _run_id(metadata: Mapping[str, Any]) -> str | None:
    run_id = metadata.get("run_id")
    return run_id if isinstance(run_id, str) else None


def _position(order: Mapping[str, Any]) -> ResumePosition | None:
    match order:
        case {"epoch": int(epoch), "samples_seen": int(seen), "step_size": int(step_size)}:
            length = order.get("length")
            return ResumePosition(epoch, seen, step_size, length if isinstance(length, int) else None)
    return None
