"""Keeps the global random generators in the checkpoints, for the user's own code that draws from them.

Each training step and each batch of images seeds them anew from (seed, batch), so that what is drawn does not depend on
what was drawn before; the project itself needs none of this to resume.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

KEY = "randomness"


class Randomness(Callback):
    """Saves the states of Python's, NumPy's and torch's generators, and puts them back when training goes on."""

    def __init__(self) -> None:
        self._restored: dict[str, Any] | None = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[KEY] = states()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._restored = checkpoint.get(KEY)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._restored is not None:
            restore(self._restored)
            self._restored = None


def states() -> dict[str, Any]:
    """The states as tensors and plain containers."""
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    version, internal, gauss = random.getstate()
    return {
        "python": [version, list(internal), gauss],
        "numpy": [str(kind), np.asarray(keys).tolist(), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore(kept: dict[str, Any]) -> None:
    """Put the generators where they were; those of CUDA devices only where there are as many as then."""
    version, internal, gauss = kept["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, position, has_gauss, cached = kept["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(kept["torch"])
    if kept["cuda"] and len(kept["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(kept["cuda"])


@contextlib.contextmanager
def randomness_kept() -> Iterator[None]:
    """Put the generators of Python, NumPy and torch back to where they were."""
    before = states()
    try:
        yield
    finally:
        restore(before)
