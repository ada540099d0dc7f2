"""``pixels``: pixel values as features, for tiny images."""

from __future__ import annotations

import hashlib

from diffusion_lab.features.extractor import (
    Extracted,
    FeatureExtractor,
    check_pixels,
    resize_images,
    with_channels,
)
from diffusion_lab.shapes import Pixels

MAX_SIZE = 32
"""Side in pixels above which images are resized, since the covariance of more pixels needs too much memory."""


class PixelExtractor(FeatureExtractor):
    """Flattened pixel values in [0, 1].

    Args:
        image_size: Side to which images are resized, at most 32 pixels.
        channels: 1 or 3.
    """

    name = "pixels"

    def __init__(self, image_size: int, channels: int) -> None:
        if channels not in (1, 3):
            raise ValueError(f"features = pixels takes images of 1 or 3 channels, got {channels}")
        self.size = MAX_SIZE if image_size > MAX_SIZE else None
        self._side, self.channels = min(image_size, MAX_SIZE), channels
        self.num_features = channels * self._side**2

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(repr(("pixels / 255", self._side, self.channels)).encode()).hexdigest()

    def __call__(self, pixels: Pixels) -> Extracted:
        check_pixels(pixels)
        images = resize_images(with_channels(pixels.cpu(), self.channels), self._side)
        return Extracted(images.reshape(len(images), self.num_features).float() / 255)
