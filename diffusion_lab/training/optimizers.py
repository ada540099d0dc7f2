"""Optimizers by name."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from diffusion_lab.config.import_class import load_class
from diffusion_lab.config.optimizer_section import OptimizerSettings

OPTIMIZERS: dict[str, type[Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}
"""The names that ``training.optimizer.type`` takes, beside dotted paths of one's own classes."""

FUSED_ON = ("cpu", "cuda")
"""Devices on which one kernel makes the whole step of these: less than half the time (docs/performance.md)."""


def create_optimizer(
    settings: OptimizerSettings, parameters: Iterable[nn.Parameter], scaled: bool = False
) -> Optimizer:
    """Build the optimizer of the settings.

    ``betas`` always stands in the settings; a class without such an argument, like torch.optim.SGD, is not given it.

    Args:
        settings: ``training.optimizer``.
        parameters: What is trained, where it stays.
        scaled: Whether a gradient scaler is used, as float16 needs one. It would leave it to the one kernel to undo the
            scale, after gradients were clipped and judged, so such a kernel is not taken.

    Raises:
        ValueError: The class does not take an argument that was given, or a fused one was asked for with a scaler.
    """
    cls = OPTIMIZERS.get(settings.type) or load_class(settings.type, "training.optimizer.type")
    parameters = list(parameters)
    arguments: dict[str, Any] = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    if settings.fused and scaled:
        raise ValueError("training.optimizer.fused must be off where training.performance.precision is fp16, got true")
    accepted = inspect.signature(cls).parameters
    if settings.type in OPTIMIZERS and "fused" in accepted:
        one_kernel = all(weight.device.type in FUSED_ON for weight in parameters)
        arguments["fused"] = one_kernel and not scaled and not settings.foreach
    if "betas" in accepted:
        arguments["betas"] = settings.betas
    try:
        optimizer: Optimizer = cls(parameters, **arguments | settings.options)
    except TypeError as error:
        raise ValueError(f"training.optimizer.type {settings.type} does not take these settings: {error}") from error
    return optimizer


def check_capturable(settings: OptimizerSettings, device: torch.device) -> None:
    """Raise ValueError where ``capturable`` is asked for on a device that it has no effect on."""
    if settings.capturable and device.type in ("cpu", "mps"):
        raise ValueError(
            "training.optimizer.capturable must be false on this device, since a step can be part of a CUDA graph on a "
            f"GPU alone, got true with compute.device {device}"
        )
