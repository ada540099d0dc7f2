"""Networks for images, conditioned on a time and a label; independent of diffusion."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffusion_lab.networks.dit import DiT
    from diffusion_lab.networks.image_network import ImageNetwork
    from diffusion_lab.networks.unet import UNet

__all__ = ["DiT", "ImageNetwork", "UNet"]

_MODULES = {"DiT": "dit", "ImageNetwork": "image_network", "UNet": "unet"}


def __getattr__(name: str) -> object:
    """Import a network on first use: the options of networks are read before torch is imported."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
