"""Composition of images with an alpha channel over white, since no feature network accepts one."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from diffusion_lab.data.pixels import convert_arrays
from diffusion_lab.data.source import ImageSource, PixelArray
from diffusion_lab.features.stored_images import BACKGROUND
from diffusion_lab.shapes import Pixels


def without_transparency(source: ImageSource) -> ImageSource:
    """Return the images of a source composited over white; the source itself if it has no alpha channel."""
    return source if source.channels != 4 else Opaque(source)


def composite_over_white(pixels: Pixels) -> Pixels:
    """Return images ``(N, C, H, W)`` composited over white, on the CPU, like ``without_transparency`` for a source."""
    if pixels.shape[1] != 4:
        return pixels
    arrays = pixels.permute(0, 2, 3, 1).numpy()
    return torch.from_numpy(convert_arrays(arrays, pixels.shape[-1], 3, BACKGROUND))


class Opaque(ImageSource):
    """Images of another source with four channels, composited over white."""

    def __init__(self, source: ImageSource) -> None:
        self.source = source
        self.labels, self.class_names = source.labels, source.class_names
        self.channels, self.image_size, self.varies = 3, source.image_size, source.varies

    def load(self, index: int, rng: np.random.Generator | None) -> PixelArray:
        pixels = self.source.load(index, rng).transpose(1, 2, 0)
        converted: PixelArray = convert_arrays(pixels[None], self.image_size, 3, BACKGROUND)[0]
        return converted

    def fingerprint(self) -> str:
        """Return a hash of the fingerprint of the original images."""
        return hashlib.sha256(f"over white {self.source.fingerprint()}".encode()).hexdigest()

    def raise_if_damaged(self, wait: bool = False) -> None:
        self.source.raise_if_damaged(wait)
