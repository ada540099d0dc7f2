"""Networks for images, conditioned on a time and a label; independent of diffusion."""

from __future__ import annotations

from diffusion_lab.networks.dit import DiT
from diffusion_lab.networks.image_network import ImageNetwork
from diffusion_lab.networks.unet import UNet

NETWORKS: dict[str, type[ImageNetwork]] = {"unet": UNet, "dit": DiT}
"""Names that ``model.architecture.type`` accepts, besides dotted paths of custom classes."""

__all__ = ["NETWORKS", "DiT", "ImageNetwork", "UNet"]
