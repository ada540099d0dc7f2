"""Runs that train within a second: 24 images of 8×8 in three classes, a network of 8 channels."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from rich.console import Console

from diffusion_lab.config import get_default_config
from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.config.validate import parse_as
from diffusion_lab.create import create_ddpm, create_denoiser
from diffusion_lab.data.source import ArraySource
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.runs.folder import RunFolder
from diffusion_lab.training.create import create_module, create_trainer
from diffusion_lab.training.fit import TrainingSummary, train
from diffusion_lab.training.module import DiffusionModule
from diffusion_lab.training.sources import create_datamodule

CLASSES = ("low", "middle", "high")
CHANGES: dict[str, object] = {
    "experiment": "tiny",
    "compute.device": "cpu",
    "compute.seed": 0,
    "model.architecture.image_size": 8,
    "model.architecture.in_channels": 1,
    "model.architecture.model_channels": 8,
    "model.architecture.channel_multipliers": [1],
    "model.architecture.use_attention": [True],
    "model.architecture.num_res_blocks": 1,
    "model.architecture.dropout": 0.1,
    "model.diffusion.num_timesteps": 20,
    "model.conditioning.type": "class",
    "model.conditioning.num_classes": 3,
    "data.type": "tests.training.tiny.TinySource",
    "data.paths.train": None,
    "data.loading.batch_size": 6,
    "data.loading.num_workers": 0,
    "data.loading.pin_memory": False,
    "data.validation_split": {"fraction": 0.25, "seed": 0},
    "training.epochs": 2,
    "training.log_interval": 1,
    "training.optimizer.learning_rate": 0.01,
    "training.checkpointing.save_frequency": 2,
    "training.visualization.enabled": False,
    "sampler": {"type": "ddim", "steps": 2},
}


class TinySource(ArraySource):
    """Noise, brighter with the class; ``count`` images."""

    def __init__(self, image_size: int, channels: int, count: int = 24) -> None:
        labels = np.arange(count) % len(CLASSES)
        noise = np.random.default_rng(0).integers(0, 60, (count, channels, image_size, image_size))
        super().__init__((noise + 90 * labels[:, None, None, None]).astype(np.uint8), labels, CLASSES)


class BiasPlan(torch.optim.Optimizer):
    """Sets only the bias of the output layer, to ``lr`` times the distance from step ``best_step``.

    The validation loss of a plan falls until that step and grows after it, however the machine rounds. For networks
    of one output channel, whose bias is the only parameter with one element.
    """

    def __init__(self, params: Any, lr: float, weight_decay: float = 0.0, best_step: int = 8) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "best_step": best_step, "steps": 0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        with torch.enable_grad():
            loss = None if closure is None else closure()
        (group,) = self.param_groups
        group["steps"] += 1
        (bias,) = (weight for weight in group["params"] if weight.numel() == 1)
        bias.fill_(group["lr"] * abs(group["steps"] - group["best_step"]))
        return loss


BIAS_PLAN: dict[str, object] = {
    "training.optimizer.type": "tests.training.tiny.BiasPlan",
    "training.optimizer.learning_rate": 10.0,
    "training.ema.decay": 0.5,
}
"""Validation losses that differ by a factor of ten and more; best at the end of the third epoch of three steps."""


def tiny_tree(folder: Path, changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the settings of a tiny run in ``folder`` in V2 format; ``changes`` by dotted key."""
    tree = get_default_config()
    for key, value in (CHANGES | {"output.base_dir": str(folder)} | (changes or {})).items():
        *sections, name = key.split(".")
        section = tree
        for part in sections:
            section = section.setdefault(part, {})
        section[name] = deepcopy(value)
    return tree


def tiny_config(folder: Path, changes: dict[str, Any] | None = None) -> TrainConfig:
    return parse_as(TrainConfig, tiny_tree(folder, changes), [])


def tiny_run(folder: Path, changes: dict[str, Any] | None = None, console: Console | None = None) -> TrainingSummary:
    """Train; the output is discarded unless a console is passed."""
    return train(tiny_config(folder, changes), console or Console(quiet=True))


def tiny_trainer(folder: Path, callbacks: list[Callback], changes: dict[str, Any] | None = None) -> Trainer:
    """Create the trainer of a tiny run."""
    config = tiny_config(folder, changes)
    return create_trainer(config, torch.device("cpu"), callbacks, [], RunFolder.from_settings(config.output))


def tiny_fit(
    folder: Path, callbacks: list[Callback], changes: dict[str, Any] | None = None, resumed_from: Path | None = None
) -> tuple[Trainer, DiffusionModule]:
    """Train with only these callbacks."""
    config = tiny_config(folder, changes)
    data = create_datamodule(config, seed=0)
    torch.manual_seed(0)
    module = create_module(config, create_denoiser(config.model, data.class_names), data, tiny_tree(folder, changes))
    trainer = tiny_trainer(folder, callbacks, changes)
    trainer.fit(module, datamodule=data, ckpt_path=resumed_from, weights_only=True)
    return trainer, module


def resume_of(checkpoint: Path, reset_optimizer: bool = False, reset_scheduler: bool = False) -> dict[str, Any]:
    """Return the settings that resume from a checkpoint."""
    resume = {"reset_optimizer": reset_optimizer, "reset_scheduler": reset_scheduler}
    return {"training.resume": {"enabled": True, "checkpoint": str(checkpoint), **resume}}


def saved(path: Path) -> dict[str, Any]:
    """Load a checkpoint with ``weights_only``."""
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


def tiny_denoiser(num_classes: int | None = 3) -> Denoiser:
    torch.manual_seed(0)
    denoiser = create_ddpm(
        image_size=8,
        in_channels=1,
        model_channels=8,
        channel_multipliers=[1],
        use_attention=[False],
        num_res_blocks=1,
        num_classes=num_classes,
        num_timesteps=20,
        class_names=CLASSES if num_classes else (),
    )
    for parameter in denoiser.parameters():  # zero-initialized last layers would hide the effect of labels and noise
        parameter.data += 0.05 * torch.randn_like(parameter)
    return denoiser
