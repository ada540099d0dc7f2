"""Optimizers by name."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from diffusion_lab.config.dotted import load_class
from diffusion_lab.config.training_section import OptimizerSettings

OPTIMIZERS: dict[str, type[Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}
"""The names that ``training.optimizer.type`` takes, beside dotted paths of one's own classes."""


def create_optimizer(settings: OptimizerSettings, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """Build the optimizer of the settings.

    ``betas`` always stands in the settings; a class without such an argument, like torch.optim.SGD, is not given it.

    Raises:
        ValueError: The class does not take an argument that was given.
    """
    cls = OPTIMIZERS.get(settings.type) or load_class(settings.type, "training.optimizer.type")
    arguments: dict[str, Any] = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    if "betas" in inspect.signature(cls).parameters:
        arguments["betas"] = settings.betas
    try:
        optimizer: Optimizer = cls(parameters, **arguments, **settings.options)
    except TypeError as error:
        raise ValueError(f"training.optimizer.type {settings.type} does not take these settings: {error}") from error
    return optimizer
