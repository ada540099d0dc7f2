"""Check before training that the disk has space for the checkpoints of a run."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

from diffusion_lab.checkpoint.files import steps_in
from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.faults import ConfigWarning
from diffusion_lab.training.module import DiffusionModule

MOMENTS = {"adam": 2, "adamw": 2}
"""Number of values that an optimizer saves per weight; unknown for other optimizers before their first step."""


def check_disk_space(config: TrainConfig, module: DiffusionModule, folder: Path, epochs: range, replaces: bool) -> None:
    """Check that a checkpoint fits on the disk, and warn if not all that are to be kept do.

    The sizes are lower bounds, so that nothing that could work is refused.

    Args:
        config: The settings.
        module: The module to save.
        folder: Folder of the checkpoints, which need not exist yet.
        epochs: The epochs to train, counted from 1.
        replaces: Whether existing checkpoints will be removed first.

    Raises:
        ValueError: There is not enough space for a single checkpoint.
    """
    size, free = _least_bytes(config, module), free_bytes(folder)
    if free is None:
        return
    free += sum(file.stat().st_size for file in steps_in(folder)) if replaces else 0
    if size > free:
        raise ValueError(
            f"output.base_dir must have room for checkpoints, each of at least {format_bytes(size)}, got "
            f"{str(config.output.base_dir)!r}, where {format_bytes(free)} are free: free some space, or choose a "
            "folder on another disk"
        )
    kept = _least_kept(config, epochs)
    if kept * size > free:
        warnings.warn(
            f"training.checkpointing keeps {kept:,} checkpoints of at least {format_bytes(size)}, and the disk of "
            f"{str(config.output.base_dir)!r} has {format_bytes(free)} free: the run fails when it is full. "
            "training.checkpointing.keep_last=3 keeps three and the best",
            ConfigWarning,
            stacklevel=2,
        )


def _least_bytes(config: TrainConfig, module: DiffusionModule) -> int:
    tensors = [*module.parameters(), *module.buffers()]
    size = sum(tensor.nbytes for tensor in tensors)
    if config.training.checkpointing.save_optimizer:
        trained = sum(weight.nbytes for weight in module.denoiser.parameters() if weight.requires_grad)
        size += MOMENTS.get(config.training.optimizer.type, 0) * trained
    return size


def _least_kept(config: TrainConfig, epochs: range) -> int:
    """Return the least number of checkpoints of these epochs that are kept."""
    options = config.training.checkpointing
    if options.save_best_only:
        return 1
    kept = max((epochs.stop - 1) // options.save_frequency - (epochs.start - 1) // options.save_frequency, 1)
    return kept if options.keep_last is None else min(kept, options.keep_last)


def free_bytes(folder: Path) -> int | None:
    """Return how many bytes this user can still write to the disk of a folder; None if that is unknown."""
    nearest = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    try:
        usage = shutil.disk_usage(nearest)
    except OSError:
        return None
    return usage.free if usage.total else None


def format_bytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.2f} MB"
