"""Checkpoints of untrained networks in the format of a tiny run, to test the evaluation without training."""

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
"""Class of the images of a tiny run: by default 18 training images and 6 validation images."""


def untrained(path: Path, changes: dict[str, Any] | None = None) -> Path:
    """Write a checkpoint with the settings of a tiny run, and changes to them by dotted key.

    A comparison needs at least 20 images of the run, so ``data.count`` is 60 by default.
    """
    config = tiny_config(path.parent, {"data.count": 60, **(changes or {})})
    names = CLASSES if config.model.conditioning.type == "class" else ()
    denoiser = create_denoiser(config.model, names)
    prefixes = ("denoiser.", "ema.average.")
    state = {f"{prefix}{name}": tensor for prefix in prefixes for name, tensor in denoiser.state_dict().items()}
    metadata = {
        "format": FORMAT,
        "config": config.model_dump(mode="json"),
        "class_names": list(names),
        "step": 7,
        "epoch": 1,
    }
    torch.save({"state_dict": state, "diffusion_lab": metadata}, path)
    images = run_sources(read_checkpoint(path), trust=[config.data.type]).train
    metadata["data_fingerprint"] = data_fingerprint(images)
    torch.save({"state_dict": state, "diffusion_lab": metadata}, path)
    return path
