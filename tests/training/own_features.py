"""Custom features for tests: fast ones, and some that fail."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import torch

from diffusion_lab.features import Extracted, FeatureExtractor
from diffusion_lab.shapes import Pixels


class Brightness(FeatureExtractor):
    """Mean brightness of each quarter of an image; also draws random numbers, as a careless class may."""

    name = "brightness"
    num_features = 4

    @property
    def fingerprint(self) -> str:
        return "0" * 64

    def __call__(self, pixels: Pixels) -> Extracted:
        torch.rand(3)
        np.random.rand()
        size = pixels.shape[-1] // 2
        quarters = torch.nn.functional.avg_pool2d(pixels.float().mean(1, keepdim=True), size)
        return Extracted(quarters.flatten(1) / 255)


class StopsTheRun(Brightness):
    """Requests the run to stop while features of samples are computed for the second and third time."""

    calls = 0

    def __call__(self, pixels: Pixels) -> Extracted:
        if len(pixels) == 21:  # the number of samples
            StopsTheRun.calls += 1
            if StopsTheRun.calls in (2, 3):
                os.kill(os.getpid(), signal.SIGTERM)
        return super().__call__(pixels)


class Fails(Brightness):
    """Fails to compute features of samples."""

    def __call__(self, pixels: Pixels) -> Extracted:
        if len(pixels) == 21:
            raise RuntimeError("no features today")
        return super().__call__(pixels)


class OneShort(Brightness):
    """Gives fewer features than it says."""

    def __call__(self, pixels: Pixels) -> Extracted:
        return Extracted(super().__call__(pixels).values[:, 1:])


class NotFinite(Brightness):
    """Gives NaN."""

    def __call__(self, pixels: Pixels) -> Extracted:
        return Extracted(super().__call__(pixels).values * torch.nan)


class Slow(Brightness):
    """Takes its time to be made, and for real images."""

    def __init__(self) -> None:
        time.sleep(0.4)

    def __call__(self, pixels: Pixels) -> Extracted:
        if len(pixels) != 21:
            time.sleep(0.4)
        return super().__call__(pixels)
