"""Networks for images, conditioned on a time and a label; independent of diffusion."""

from __future__ import annotations

from diffusion_lab.networks.dit import DiT
from diffusion_lab.networks.image_network import ImageNetwork
from diffusion_lab.networks.unet import UNet

__all__ = ["DiT", "ImageNetwork", "UNet"]
