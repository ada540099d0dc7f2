"""Memory saved by gradient checkpointing: bytes that the forward pass saves for the backward pass, counted."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.harness import Row, command
from diffusion_lab.networks import DiT, ImageNetwork, UNet

BATCH = 4
MAX_SHARE = 0.5


def kept_bytes(network: nn.Module, images: Tensor) -> int:
    """Return the bytes of saved tensors, counting shared storages once and no weights."""
    weights = {weight.untyped_storage().data_ptr() for weight in network.parameters()}
    kept: dict[int, Tensor] = {}  # held, so that no address is used twice

    def keep(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in weights:
            kept[address] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(images, torch.rand(len(images)))
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def networks() -> dict[str, ImageNetwork]:
    """Return a network of each type, for 32×32×3."""
    return {
        "UNet": UNet(3, 64, [1, 2, 4], [False, False, True]),
        "DiT": DiT(3, hidden_size=192, depth=6, num_heads=6, patch_size=2),
    }


def measure() -> list[Row]:
    """Return a row for each type of network."""
    rows, images = [], torch.randn(BATCH, 3, 32, 32)
    for name, network in networks().items():
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        much = kept_bytes(network, images)
        network.recompute_activations()
        little = kept_bytes(network, images)
        what = f"activations kept with gradient checkpointing, {name} at 32×32×3"
        scale = 2**20 * BATCH
        rows.append(Row("6", what, little / scale, much / scale, "MB/image", little / much, MAX_SHARE, False))
    return rows


if __name__ == "__main__":
    command("memory", measure)
