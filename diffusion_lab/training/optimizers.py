"""Optimizers by name."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from diffusion_lab.config.optimizer_section import OptimizerSettings
from diffusion_lab.runtime.import_class import load_class

OPTIMIZERS: dict[str, type[Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}
"""Names that ``training.optimizer.type`` accepts, besides dotted paths of custom classes."""

FUSED_ON = ("cpu", "cuda")
"""Devices with a fused kernel for these, which takes less than half the time (docs/performance.md)."""


def create_optimizer(
    settings: OptimizerSettings, parameters: Iterable[nn.Parameter], scaled: bool = False
) -> Optimizer:
    """Build the optimizer of the settings.

    ``betas`` is always in the settings, but not passed to a class without such an argument, like torch.optim.SGD.

    Args:
        settings: ``training.optimizer``.
        parameters: Parameters to train, on their final device.
        scaled: Whether a gradient scaler is used, as for float16. It would leave unscaling to the fused kernel, after
            gradients were clipped and checked, so no fused kernel is used then.

    Raises:
        ValueError: The class does not accept an argument, or ``fused`` was set with a gradient scaler.
    """
    cls = OPTIMIZERS.get(settings.type) or load_class(settings.type, "training.optimizer.type")
    parameters = list(parameters)
    arguments: dict[str, Any] = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    if settings.fused and scaled:
        raise ValueError("training.optimizer.fused must be off where training.performance.precision is fp16, got true")
    accepted = inspect.signature(cls).parameters
    if settings.type in OPTIMIZERS and "fused" in accepted:
        has_kernel = all(weight.device.type in FUSED_ON for weight in parameters)
        arguments["fused"] = has_kernel and not scaled and not settings.foreach
    if "betas" in accepted:
        arguments["betas"] = settings.betas
    try:
        optimizer: Optimizer = cls(parameters, **arguments | settings.options)
    except TypeError as error:
        raise ValueError(f"training.optimizer.type {settings.type} does not take these settings: {error}") from error
    return optimizer


def check_capturable(settings: OptimizerSettings, device: torch.device) -> None:
    """Raise ValueError if ``capturable`` is set for a device on which it has no effect."""
    if settings.capturable and device.type in ("cpu", "mps"):
        raise ValueError(
            "training.optimizer.capturable must be false on this device, since only on a GPU can a step be part of a "
            f"CUDA graph, got true with compute.device {device}"
        )
