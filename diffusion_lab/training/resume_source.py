"""The checkpoint that a run goes on from: which one it is, and what it says of the place it was saved at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusion_lab.checkpoint import Checkpoint, find_checkpoint, read_checkpoint
from diffusion_lab.checkpoint.export import EXPORT_SUFFIX
from diffusion_lab.checkpoint.files import named_steps, newest_valid
from diffusion_lab.checkpoint.ownership import listed_names
from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.run_folder import RunFolder
from diffusion_lab.training.foreign_state import epochs_done


@dataclass(frozen=True)
class ResumePosition:
    """Where in the data a checkpoint was saved, as the data module tells it.

    ``samples_seen`` of the epoch's ``length`` images are done, in steps of ``step_size`` over all devices.
    """

    epoch: int
    samples_seen: int
    step_size: int
    length: int | None = None


@dataclass(frozen=True)
class ResumeSource:
    """What a run goes on from.

    The weights are not kept: only the check of the architecture reads them, and the trainer later reads its own.

    Args:
        path: The checkpoint.
        step: Optimizer steps done.
        epochs_done: Epochs done; None in files that were not written by a training run.
        config: The settings of the run that wrote it.
        place: Where in the data; None where the file does not tell.
        wandb_id: Of the run on W&B.
        run_id: Of the run that wrote it; None in files of earlier versions.
        foreign: Whether another program wrote it. The steps that are done then depend on the images.
    """

    path: Path
    step: int | None
    epochs_done: int | None
    config: Mapping[str, Any]
    place: ResumePosition | None
    wandb_id: str | None
    run_id: str | None
    foreign: bool = False

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

    def is_at_the_end(self, config: TrainConfig) -> bool:
        """Whether it was saved exactly after the last step of the settings."""
        return self.epochs_done == config.training.epochs and not (self.place and self.place.samples_seen)


def find_resume_source(config: TrainConfig, folder: RunFolder) -> tuple[ResumeSource, Checkpoint] | None:
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
    if path.suffix == EXPORT_SUFFIX:
        raise ValueError(
            "training.resume.checkpoint must be a checkpoint that train.py wrote or a run folder, not an export, which "
            f"holds weights alone, got {str(path)!r}"
        )
    checkpoint = read_checkpoint(path)
    if checkpoint.foreign is not None and checkpoint.foreign.saved_in_training:
        done = epochs_done(checkpoint.foreign) or 0
        return ResumeSource(path, None, done, {}, None, None, None, foreign=True), checkpoint
    origin = ResumeSource(
        path,
        checkpoint.step,
        checkpoint.epochs_done,
        checkpoint.config or {},
        _place(checkpoint.order),
        checkpoint.about.get("wandb_id"),
        _run_id(checkpoint.about),
    )
    return origin, checkpoint


def _newest(folder: RunFolder) -> Path | None:
    newest = newest_valid(folder.checkpoints)
    there = named_steps(folder.checkpoints)
    if newest is None and there:
        raise ValueError(
            f"training.resume.checkpoint=auto finds no whole checkpoint in {folder.checkpoints} among {listed_names(there)}: "
            "name one of another folder, or move these away to start afresh"
        )
    return newest


def _run_id(about: Mapping[str, Any]) -> str | None:
    run_id = about.get("run_id")
    return run_id if isinstance(run_id, str) else None


def _place(order: Mapping[str, Any]) -> ResumePosition | None:
    match order:
        case {"epoch": int(epoch), "samples_seen": int(seen), "step_size": int(step_size)}:
            length = order.get("length")
            return ResumePosition(epoch, seen, step_size, length if isinstance(length, int) else None)
    return None
