"""Networks for images. They know a time and a label, and nothing of diffusion."""

from __future__ import annotations

from diffusion_lab.networks.dit import DiT
from diffusion_lab.networks.image_network import ImageNetwork
from diffusion_lab.networks.unet import UNet

NETWORKS: dict[str, type[ImageNetwork]] = {"unet": UNet, "dit": DiT}
"""The names that ``model.architecture.type`` takes, beside dotted paths of one's own classes."""

__all__ = ["NETWORKS", "DiT", "ImageNetwork", "UNet"]
