import numpy as np

from diffusion_lab.data.source import ArraySource


class Squares(ArraySource):
    """1,000 images of a bright square, small or large, on a noisy background."""

    def __init__(self, image_size: int, channels: int) -> None:
        labels = np.arange(1000) % 2
        images = np.random.default_rng(0).integers(0, 60, (1000, channels, image_size, image_size), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            side = (1 + label) * image_size // 4
            image[:, :side, :side] = 255
        super().__init__(images, labels, ["small", "large"])
