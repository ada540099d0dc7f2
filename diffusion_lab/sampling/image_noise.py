"""Noise of each image, from a generator of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from diffusion_lab.runtime.seeds import derive_seed
from diffusion_lab.shapes import Images


class ImageNoise:
    """Standard normal noise with a separate generator for each image.

    The noise of image i depends only on the seed and on i: not on its batch, and not on the device, since the numbers
    are drawn on the CPU.

    Args:
        seed: Seed of all images.
        indices: Indices of the ``N`` images of this batch.
        image_shape: ``(C, H, W)``.
        device: Device of the noise.
    """

    def __init__(self, seed: int, indices: Sequence[int], image_shape: tuple[int, ...], device: torch.device) -> None:
        self.generators = [torch.Generator().manual_seed(derive_seed("image", seed, index)) for index in indices]
        self.image_shape = image_shape
        self.device = device

    def __call__(self) -> Images:
        """Draw the next noise of each image, ``(N, C, H, W)``."""
        noise = [torch.randn(self.image_shape, generator=generator) for generator in self.generators]
        return torch.stack(noise).to(self.device)
