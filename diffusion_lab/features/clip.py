"""``clip``: the image half of CLIP (arXiv:2103.00020)."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import torch
from torch import Tensor

from diffusion_lab.features.dinov2 import normalize_images
from diffusion_lab.features.extractor import Extracted, NetworkExtractor, resize_images
from diffusion_lab.features.published import CLIP
from diffusion_lab.features.weights_file import checked_content, read_weights
from diffusion_lab.shapes import Images, Pixels

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

LARGER = {CLIP[1].sha256: "clip_vitb16", CLIP[2].sha256: "clip_vitl14"}
"""Names of the features of published files other than the one that is meant where none is given."""


class ClipExtractor(NetworkExtractor):
    """The embedding of images resized to what the network was trained with; the network is torch-fidelity's.

    Args:
        path: File of the weights: OpenAI's own, or a state dict with the same names.
        sha256: SHA-256 that it must have.
        device: Where it computes.

    Raises:
        ValueError: The file has another hash, or holds the weights of another network.
    """

    name = "clip"
    preparation = "bicubic, antialiased, rounded; mean and deviation of CLIP"

    def __init__(self, path: Path, sha256: str, device: str | torch.device = "cpu") -> None:
        from torch_fidelity.feature_extractor_clip import build_model  # only where it is used

        weights = _weights(path, sha256)
        try:
            network = build_model(weights, torch.float32).visual
        except (KeyError, IndexError, RuntimeError, ValueError) as error:
            words = str(error).strip().splitlines()[0]
            raise ValueError(
                f"weights of features=clip must be those of CLIP, got other ones in {path}: {words}"
            ) from error
        self.size, self.num_features = network.input_resolution, network.output_dim
        self.name = LARGER.get(sha256, self.name)
        super().__init__(network, device)

    def prepare(self, pixels: Pixels) -> Images:
        assert self.size is not None
        return normalize_images(resize_images(pixels, self.size), MEAN, STD)

    def forward(self, images: Images) -> Extracted:
        return Extracted(self.network(images))


def _weights(path: Path, sha256: str) -> dict[str, Tensor]:
    """OpenAI's files are TorchScript, which holds code: only those with a published hash are read as such."""
    if sha256 not in {file.sha256 for file in CLIP}:
        return dict(read_weights("clip", path, sha256))
    content = checked_content("clip", path, sha256)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return dict(torch.jit.load(io.BytesIO(content), map_location="cpu").state_dict())
