"""Loading weights into a denoiser: all or none, without drawing initial weights first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from diffusion_lab.denoiser import Denoiser

Weights = Mapping[str, Tensor]


def load_weights(denoiser: Denoiser, weights: Weights, path: Path) -> None:
    """Load weights into a denoiser, all of them or none.

    Raises:
        ValueError: Listing the weights that are missing, unknown or of another shape.
    """
    own = denoiser.state_dict()
    check_architecture({name: tensor.shape for name, tensor in own.items()}, weights, path)
    denoiser.load_state_dict(dict(weights))


def check_architecture(own: Mapping[str, torch.Size], weights: Weights, path: Path) -> None:
    """Raise ValueError unless weights have the names and shapes of ``own`` and a floating-point dtype."""
    faults = [f"missing {name}" for name in own if name not in weights]
    faults += [f"unknown {name}" for name in weights if name not in own]
    faults += [
        f"{name} is {tuple(weights[name].shape)}, the model's is {tuple(shape)}"
        for name, shape in own.items()
        if name in weights and weights[name].shape != shape
    ]
    faults += [f"{name} is of {weight.dtype}" for name, weight in weights.items() if not weight.is_floating_point()]
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise ValueError(
            f"{path} holds weights of another architecture: {'; '.join(faults[:5])}{more}. "
            "Give the model settings that it was trained with"
        )


class SkipWeightInit(TorchFunctionMode):
    """Skip the initialization of weights that are overwritten soon; drawing them takes longer than reading them."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.__name__.endswith(("uniform_", "normal_")):  # of tensors, and torch.nn.init.kaiming_uniform_ and so on
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
