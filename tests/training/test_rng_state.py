"""States of the global random number generators are saved and restored."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch

from diffusion_lab.checkpoint import find_checkpoint
from diffusion_lab.training.callbacks.rng_state import restore, states
from tests.training.tiny import saved, tiny_run


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_restored_generators_draw_the_same_numbers(tmp_path: Path) -> None:
    draws()
    torch.save(states(), tmp_path / "states")
    expected = draws()
    restore(torch.load(tmp_path / "states", weights_only=True))
    assert draws() == expected


def test_checkpoints_contain_the_states(tmp_path: Path) -> None:
    tiny_run(tmp_path)
    assert saved(find_checkpoint(tmp_path, "last"))["randomness"].keys() == {"python", "numpy", "torch", "cuda"}
