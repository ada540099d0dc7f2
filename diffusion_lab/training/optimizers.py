"""Optimizers from settings."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import Optimizer

from diffusion_lab.config.optimizer_section import OptimizerSettings

FUSED_ON = ("cpu", "cuda")
"""Devices with a fused kernel for the named optimizers, which takes less than half the time (docs/performance.md)."""


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
    parameters, options = list(parameters), settings.options
    if options.get("fused") and scaled:
        raise ValueError("training.optimizer.fused must be off where training.performance.precision is fp16, got true")
    kernel = {}
    if "fused" in settings.options_of(settings.type) and "fused" not in options:
        has_kernel = all(weight.device.type in FUSED_ON for weight in parameters)
        kernel["fused"] = has_kernel and not scaled and not options.get("foreach")
    optimizer: Optimizer = settings.build(
        parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, betas=settings.betas, **kernel
    )
    return optimizer


def check_capturable(settings: OptimizerSettings, device: torch.device) -> None:
    """Raise ValueError if ``capturable`` is set for a device on which it has no effect."""
    if settings.options.get("capturable") and device.type in ("cpu", "mps"):
        raise ValueError(
            "training.optimizer.capturable must be false on this device, since only on a GPU can a step be part of a "
            f"CUDA graph, got true with compute.device {device}"
        )
