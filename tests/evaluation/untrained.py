"""Checkpoints as a tiny run leaves them, of a network that has learnt nothing: to evaluate one takes no training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from diffusion_lab.checkpoint import FORMAT, read_checkpoint
from diffusion_lab.create import create_denoiser
from diffusion_lab.features.run_images import run_sources
from diffusion_lab.runs.identity import data_fingerprint
from tests.training.tiny import CLASSES, tiny_config

OWN_IMAGES = "tests.training.tiny.TinySource"
"""The class that the images of a tiny run come from: 18 to train on and 6 to validate on, where nothing is changed."""


def untrained(path: Path, changes: dict[str, Any] | None = None) -> Path:
    """Write a checkpoint with the settings of a tiny run, some of them changed by dotted key.

    Images of a run are at least 20 where they are to be compared with: see ``data.count``.
    """
    config = tiny_config(path.parent, {"data.count": 60, **(changes or {})})
    names = CLASSES if config.model.conditioning.type == "class" else ()
    denoiser = create_denoiser(config.model, names)
    prefixes = ("denoiser.", "ema.average.")
    state = {f"{prefix}{name}": tensor for prefix in prefixes for name, tensor in denoiser.state_dict().items()}
    about = {
        "format": FORMAT,
        "config": config.model_dump(mode="json"),
        "class_names": list(names),
        "step": 7,
        "epoch": 1,
    }
    torch.save({"state_dict": state, "diffusion_lab": about}, path)
    images = run_sources(read_checkpoint(path), trust=[config.data.type]).train
    about["data_fingerprint"] = data_fingerprint(images)
    torch.save({"state_dict": state, "diffusion_lab": about}, path)
    return path
