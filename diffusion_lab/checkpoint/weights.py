"""Loading weights into a denoiser: all or none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from diffusion_lab.denoiser import Denoiser

Weights = Mapping[str, Tensor]


def load_weights(denoiser: Denoiser, weights: Weights, path: Path) -> None:
    """Copy weights into a denoiser, all of them or none.

    Raises:
        ValueError: Listing the weights that are missing, unknown or of another shape or kind.
    """
    check_architecture(denoiser.state_dict(), weights, path)
    denoiser.load_state_dict(dict(weights))


def assign_weights(denoiser: Denoiser, weights: Weights, path: Path, copy: bool) -> None:
    """Give weights to a denoiser that has none yet, on the device ``meta``.

    Args:
        denoiser: The denoiser. No two of its weights are the same.
        weights: The weights.
        path: The file, for messages.
        copy: Whether to copy all weights. Otherwise those that own their memory are taken over, so the denoiser must be
            their only user.

    Raises:
        ValueError: Listing the weights that are missing, unknown or of another shape or kind.
    """
    own = denoiser.state_dict()
    check_architecture(own, weights, path)
    taken: set[int] = set()
    assigned: dict[str, Tensor] = {}
    for name, empty in own.items():
        weight = weights[name].detach()
        address, owned_bytes = weight.data_ptr(), weight.untyped_storage().nbytes()
        is_shared = address in taken or owned_bytes != weight.numel() * weight.element_size()
        taken.add(address)
        assigned[name] = weight.to(empty.dtype, copy=copy or is_shared)
    denoiser.load_state_dict(assigned, assign=True)
    denoiser.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def check_architecture(own: Weights, weights: Weights, path: Path) -> None:
    """Raise ValueError unless weights have the names and shapes of ``own``, and are floating-point where these are."""
    faults = [f"missing {name}" for name in own if name not in weights]
    faults += [f"unknown {name}" for name in weights if name not in own]
    common = {name: (tensor, weights[name]) for name, tensor in own.items() if name in weights}
    faults += [
        f"{name} is {tuple(weight.shape)}, the model's is {tuple(tensor.shape)}"
        for name, (tensor, weight) in common.items()
        if weight.shape != tensor.shape
    ]
    faults += [
        f"{name} is of {weight.dtype}"
        for name, (tensor, weight) in common.items()
        if weight.is_floating_point() != tensor.is_floating_point() or weight.is_complex() != tensor.is_complex()
    ]
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise ValueError(
            f"{path} holds weights of another architecture: {'; '.join(faults[:5])}{more}. "
            "Give the model settings that it was trained with"
        )
