"""Cost of a network: its parameters, and the operations for one image."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(network: nn.Module) -> int:
    """Return the number of parameters, including those that are not trained."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_forward_flops(
    network: nn.Module, image_shape: tuple[int, int, int], num_classes: int | None = None
) -> int | None:
    """Return ``forward_flops``, or None if a custom network cannot be analysed."""
    try:
        return forward_flops(network, image_shape, num_classes)
    except Exception:
        return None


def forward_flops(network: nn.Module, image_shape: tuple[int, int, int], num_classes: int | None = None) -> int:
    """Return the floating-point operations of one forward pass for one image; a training step takes about three times.

    Convolutions and matrix products are counted, including those of attention; a multiply-add is two operations.
    Elementwise operations are not counted: normalisation, activations, sums. Nothing is computed: a copy of the network
    runs on the ``meta`` device.

    Args:
        network: Network that maps ``(images, times, labels)`` to images.
        image_shape: ``(C, H, W)``.
        num_classes: Number of classes, None for a network without labels.

    Raises:
        Exception: Any error of a network that needs values, or whose tensors are not all parameters and buffers.
    """
    meta_network = copy.deepcopy(network).to("meta")
    with torch.no_grad(), torch.device("meta"), FlopCounterMode(display=False) as counter:
        label = None if num_classes is None else torch.empty(1, dtype=torch.int64)
        meta_network(torch.empty(1, *image_shape), torch.empty(1), label)
    return int(counter.get_total_flops())
