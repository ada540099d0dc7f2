"""``clip``: the image encoder of CLIP (arXiv:2103.00020)."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import torch
from torch import Tensor

from diffusion_lab.features.dinov2 import normalize_images
from diffusion_lab.features.extractor import Extracted, NetworkExtractor, resize_images
from diffusion_lab.features.published import CLIP
from diffusion_lab.features.weights_file import read_verified_bytes, read_weights
from diffusion_lab.shapes import Images, Pixels

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

LARGER = {CLIP[1].sha256: "clip_vitb16", CLIP[2].sha256: "clip_vitl14"}
"""Feature names of the published files other than the default one, by SHA-256."""


class ClipExtractor(NetworkExtractor):
    """Image embedding of CLIP at the resolution of its training; the network is that of torch-fidelity.

    Args:
        path: Weights file: OpenAI's, or a state dict with the same names.
        sha256: Expected SHA-256.
        device: Device of the network.

    Raises:
        ValueError: The file has another hash, or weights of another network.
    """

    name = "clip"
    preparation = "bicubic, antialiased, rounded; mean and deviation of CLIP"

    def __init__(self, path: Path, sha256: str, device: str | torch.device = "cpu") -> None:
        from torch_fidelity.feature_extractor_clip import build_model  # lazy, needed only here

        weights = _read_clip_weights(path, sha256)
        try:
            network = build_model(weights, torch.float32).visual
        except (KeyError, IndexError, RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(
                f"weights of features=clip must be those of CLIP, got other weights in {path}: {reason}"
            ) from error
        self.size, self.num_features = network.input_resolution, network.output_dim
        self.name = LARGER.get(sha256, self.name)
        super().__init__(network, device)

    def prepare(self, pixels: Pixels) -> Images:
        assert self.size is not None
        return normalize_images(resize_images(pixels, self.size), MEAN, STD)

    def forward(self, images: Images) -> Extracted:
        return Extracted(self.network(images))


def _read_clip_weights(path: Path, sha256: str) -> dict[str, Tensor]:
    """Read a weights file. OpenAI's are TorchScript, which contains code, so only published hashes are read as such."""
    if sha256 not in {file.sha256 for file in CLIP}:
        return dict(read_weights("clip", path, sha256))
    content = read_verified_bytes("clip", path, sha256)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return dict(torch.jit.load(io.BytesIO(content), map_location="cpu").state_dict())
