"""Custom images, for ``data.type=tests.faults.hanging_images.Hanging``."""

from __future__ import annotations

import time

import numpy as np

from diffusion_lab.data.digits import digits
from diffusion_lab.data.source import ImageSource, PixelArray


class Hanging(ImageSource):
    """The digits; loading one of them hangs."""

    def __init__(self, image_size: int, channels: int) -> None:
        self.source = digits(image_size, channels)
        self.image_size, self.channels = image_size, channels
        self.labels, self.class_names = self.source.labels, self.source.class_names

    def load(self, index: int, rng: np.random.Generator | None) -> PixelArray:
        if index == 1234:
            time.sleep(1000)
        return self.source.load(index, rng)

    def fingerprint(self) -> str:
        return self.source.fingerprint()
