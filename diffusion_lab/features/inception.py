"""``inception``: the network of FID, KID and Inception Score, with the resizing of their definition."""

from __future__ import annotations

import io
from pathlib import Path

import torch

from diffusion_lab.features.extractor import Extracted, NetworkExtractor
from diffusion_lab.features.weights_file import read_weights
from diffusion_lab.runtime import torchvision_import
from diffusion_lab.shapes import Images, Pixels


class InceptionExtractor(NetworkExtractor):
    """Inception-v3 of 2015-12-05: 2,048 features, and 1,008 logits without bias, as used by Inception Score.

    Network and resizing (TensorFlow's bilinear resizing without antialiasing) are those of torch-fidelity.

    Args:
        path: Weights file.
        sha256: Expected SHA-256.
        device: Device of the network.

    Raises:
        ValueError: The file has another hash, or weights of another network.
    """

    name = "inception"
    size = 299
    num_features = 2048
    has_logits = True
    preparation = "torch-fidelity's: resized as by TensorFlow 1; less 128, over 128"

    def __init__(self, path: Path, sha256: str, device: str | torch.device = "cpu") -> None:
        torchvision_import.install()
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3  # lazy, needed only here

        weights = io.BytesIO()  # torch-fidelity unpickles without checks, so it gets a file with only tensors
        torch.save(read_weights("inception", path, sha256), weights)
        weights.seek(0)
        try:
            network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"], weights)
        except RuntimeError as error:
            raise ValueError(
                f"weights of features=inception must be those of FID's Inception-v3, got others in {path}: {error}"
            ) from error
        super().__init__(network, device)

    def prepare(self, pixels: Pixels) -> Images:
        return pixels

    def forward(self, images: Images) -> Extracted:
        values, logits = self.network(images)
        return Extracted(values, logits)
