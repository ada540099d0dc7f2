"""``pixels``: the images themselves, for tiny ones."""

from __future__ import annotations

import hashlib

from diffusion_lab.features.extractor import (
    Extracted,
    FeatureExtractor,
    refuse_other_pixels,
    resize_images,
    with_channels,
)
from diffusion_lab.shapes import Pixels

LARGEST = 32
"""Side in pixels beyond which images are resized: the covariance of more numbers would fill any memory."""


class PixelExtractor(FeatureExtractor):
    """Pixel values in [0, 1], one after the other.

    Args:
        image_size: Side of the images; more than 32 pixels are resized to 32. Images of another size are resized too.
        channels: 1 or 3.
    """

    name = "pixels"

    def __init__(self, image_size: int, channels: int) -> None:
        if channels not in (1, 3):
            raise ValueError(f"features = pixels takes images of 1 or 3 channels, got {channels}")
        self.size = LARGEST if image_size > LARGEST else None
        self._side, self.channels = min(image_size, LARGEST), channels
        self.num_features = channels * self._side**2

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(repr(("pixels / 255", self._side, self.channels)).encode()).hexdigest()

    def __call__(self, pixels: Pixels) -> Extracted:
        refuse_other_pixels(pixels)
        images = resize_images(with_channels(pixels.cpu(), self.channels), self._side)
        return Extracted(images.reshape(len(images), self.num_features).float() / 255)
