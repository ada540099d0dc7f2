"""Callback that turns a damaged training state into one error that names the checkpoint, before the first step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from diffusion_lab.checkpoint.reading import DATA_POSITION
from diffusion_lab.runtime.memory import is_out_of_memory

MAX_COUNT = 2**63 - 1

IN_THE_DATA = ("epoch", "samples_seen", "seed", "length", "step_size")
"""Keys of the data module's position."""

ADAM_STATE = {"step", "exp_avg", "exp_avg_sq"}


class RestoreErrors(Callback):
    """Checks what the trainer restores from a checkpoint.

    Args:
        path: The checkpoint; None for a fresh start.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.done = path is None

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        _check_progress(checkpoint["loops"]["fit_loop"], trainer.fit_loop.state_dict(), "loops.fit_loop")
        if DATA_POSITION in checkpoint:
            _check_progress(checkpoint[DATA_POSITION], dict.fromkeys(IN_THE_DATA, 0), DATA_POSITION)
        for name in ("epoch", "global_step"):
            _check_progress(checkpoint[name], 0, name)
        for name in ("optimizer_states", "lr_schedulers"):  # the trainer silently ignores values of other types
            states = checkpoint.get(name, [])
            if not isinstance(states, list) or not all(isinstance(state, dict) for state in states):
                raise ValueError(f"{name} is not a list of states")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.done:
            for optimizer in trainer.optimizers:
                _check_optimizer(optimizer)
        self.done = True

    @contextlib.contextmanager
    def explaining(self) -> Iterator[None]:
        """Turn any exception until training starts into one error.

        Raises:
            ValueError: The checkpoint's training state cannot be restored.
        """
        try:
            yield
        except Exception as error:
            if self.done or isinstance(error, OSError) or is_out_of_memory(error):
                raise
            text = str(error).strip()
            reason = text.splitlines()[0][:200] if text else type(error).__name__
            raise ValueError(
                f"cannot resume from {self.path}: its training state is damaged ({reason}); resume from another "
                "checkpoint (its weights may still do for sampling)"
            ) from error


def _check_progress(value: object, fresh: object, key: str) -> None:
    """Compare with the value of a fresh run: anything but counts would fail epochs later."""
    if isinstance(fresh, dict):
        if not isinstance(value, dict):
            raise ValueError(f"{key} does not hold counts")
        for name, part in fresh.items():
            if name in value:
                _check_progress(value[name], part, f"{key}.{name}")
    elif isinstance(fresh, int) and not (isinstance(value, int) and 0 <= value <= MAX_COUNT):
        raise ValueError(f"{key} is not a count")


def _check_optimizer(optimizer: Optimizer) -> None:
    for group in optimizer.param_groups:
        for name, default in optimizer.defaults.items():
            if not _is_alike(group.get(name), default):
                raise ValueError(f"the optimizer's {name} is of type {type(group.get(name)).__name__}")
    if not isinstance(optimizer, torch.optim.Adam):  # AdamW derives from it; the state of others is unknown
        return
    for weight, state in optimizer.state.items():
        if not isinstance(state, dict) or not set(state) >= ADAM_STATE:
            raise ValueError("the optimizer's state of a weight is incomplete")
        for name, value in state.items():
            shape = torch.Size() if name == "step" else weight.shape
            if not isinstance(value, Tensor) or value.shape != shape or not value.is_floating_point():
                raise ValueError(f"the optimizer's {name} of a weight of shape {tuple(weight.shape)} does not fit it")


def _is_alike(value: object, default: object) -> bool:
    """Return whether an option of an optimizer may have this value, given the type of its default."""
    if isinstance(default, bool) or default is None:
        return isinstance(value, bool) or value is None
    if isinstance(default, int | float | Tensor):
        return isinstance(value, int | float | Tensor) and not isinstance(value, bool)
    if isinstance(default, tuple | list):
        return isinstance(value, tuple | list) and len(value) == len(default) and all(map(_is_alike, value, default))
    return True
