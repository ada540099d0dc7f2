"""Small networks, with random instead of zero output layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from diffusion_lab.networks import DiT, ImageNetwork, UNet

Network = TypeVar("Network", bound=torch.nn.Module)


def unet(stages: int = 2, **options) -> UNet:
    defaults = {
        "in_channels": 1,
        "model_channels": 8,
        "channel_multipliers": [1, 2, 2, 3, 1][:stages],
        "use_attention": [index == stages - 1 for index in range(stages)],
        "num_res_blocks": 1,
    }
    torch.manual_seed(0)
    return UNet(**{**defaults, **options})


def dit(**options) -> DiT:
    defaults = {
        "in_channels": 1,
        "hidden_size": 16,
        "depth": 2,
        "num_heads": 2,
    }
    torch.manual_seed(0)
    return DiT(**{**defaults, **options})


SMALL: dict[str, Callable[..., ImageNetwork]] = {"unet": unet, "dit": dit}
"""Function that creates a small network, by name."""


def with_random_outputs(network: Network) -> Network:
    """The network with its zero layers filled, as after some training."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def count(network: torch.nn.Module, kind: type[torch.nn.Module]) -> int:
    return sum(isinstance(module, kind) for module in network.modules())
