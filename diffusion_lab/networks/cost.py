"""What a network costs: its parameters, and the arithmetic of one image."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(network: nn.Module) -> int:
    """How many numbers its parameters hold, those that are not trained among them."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_forward_flops(
    network: nn.Module, image_shape: tuple[int, int, int], num_classes: int | None = None
) -> int | None:
    """Return ``forward_flops``, or None where a custom network does what cannot be counted."""
    try:
        return forward_flops(network, image_shape, num_classes)
    except Exception:
        return None


def forward_flops(network: nn.Module, image_shape: tuple[int, int, int], num_classes: int | None = None) -> int:
    """Floating-point operations of one image's way through a network; a step of training takes about three times these.

    Counted are convolutions and products of matrices, attention's among them; a multiplication and the addition after
    it are two operations. What works on each number by itself is left out: normalisation, activations, sums. Nothing
    is computed: a copy of the network is followed with tensors that have a shape and no values.

    Args:
        network: Maps ``(images, times, labels)`` to images.
        image_shape: ``(C, H, W)``.
        num_classes: Number of classes, None for a network without labels.

    Raises:
        Exception: Whatever a network raises that asks for values, or whose tensors are not all parameters and buffers.
    """
    shapes_alone = copy.deepcopy(network).to("meta")
    with torch.no_grad(), torch.device("meta"), FlopCounterMode(display=False) as counter:
        label = None if num_classes is None else torch.empty(1, dtype=torch.int64)
        shapes_alone(torch.empty(1, *image_shape), torch.empty(1), label)
    return int(counter.get_total_flops())
