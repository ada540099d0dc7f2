"""Networks for images. They know a time and a label, and nothing of diffusion."""

from __future__ import annotations

from diffusion_lab.networks.unet import UNet

NETWORKS: dict[str, type[UNet]] = {"unet": UNet}
"""The names that ``model.architecture.type`` takes, beside dotted paths of one's own classes."""

__all__ = ["NETWORKS", "UNet"]
