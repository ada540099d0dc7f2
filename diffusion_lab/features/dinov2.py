"""``dinov2``: the vision transformers of DINOv2 (arXiv:2304.07193), for the Fréchet distance of arXiv:2306.04675.

``torch.hub``, through which they are published, runs downloaded code; this module reads only the weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion_lab.features.extractor import Extracted, NetworkExtractor, resize_images
from diffusion_lab.features.weights_file import read_weights
from diffusion_lab.shapes import Images, Pixels

SIZE = 224
HEAD_CHANNELS = 64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MAX_CHANNELS = 1024
"""Channels of ViT-L/14; the larger ViT-g/14 has other feed-forward layers."""

POSITION_OFFSET = 0.1
"""Offset that DINOv2 adds to the number of patches when resizing its position embeddings, as in its training."""


class _Block(nn.Module):
    """Transformer block: attention and MLP with pre-normalization and layer scale.

    Args:
        channels: Channels of a token.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels, eps=1e-6), nn.LayerNorm(channels, eps=1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(channels, 3 * channels), "proj": nn.Linear(channels, channels)})
        self.ls1 = nn.ParameterDict({"gamma": nn.Parameter(torch.ones(channels))})
        self.ls2 = nn.ParameterDict({"gamma": nn.Parameter(torch.ones(channels))})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(channels, 4 * channels), "fc2": nn.Linear(4 * channels, channels)})

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens ``(B, T, D)`` to ``(B, T, D)``."""
        count, length, channels = tokens.shape
        split = self.attn["qkv"](self.norm1(tokens)).view(count, length, 3, channels // HEAD_CHANNELS, HEAD_CHANNELS)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(tokens.shape)
        tokens = tokens + self.ls1["gamma"] * self.attn["proj"](attended)
        hidden = F.gelu(self.mlp["fc1"](self.norm2(tokens)))
        output: Tensor = tokens + self.ls2["gamma"] * self.mlp["fc2"](hidden)
        return output


class DinoV2(nn.Module):
    """Vision transformer with the parameter names of DINOv2's published weights.

    Args:
        channels: Channels of a token: 384, 768 or 1,024.
        depth: Number of blocks.
        patch_size: Side of a patch in pixels.
        grid: Side of the grid of position embeddings in patches.
    """

    def __init__(self, channels: int = 1024, depth: int = 24, patch_size: int = 14, grid: int = 37) -> None:
        super().__init__()
        self.grid, self.patch_size = grid, patch_size
        self.cls_token = nn.Parameter(torch.zeros(1, 1, channels))
        self.mask_token = nn.Parameter(torch.zeros(1, channels))  # part of the published weights, used only in training
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid**2, channels))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, channels, patch_size, stride=patch_size)})
        self.blocks = nn.ModuleList(_Block(channels) for _ in range(depth))
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, images: Images) -> Tensor:
        """Map images ``(B, 3, H, W)``, sides multiples of the patch size, to the class token ``(B, D)``."""
        patches = self.patch_embed["proj"](images)
        tokens = torch.cat([self.cls_token.expand(len(images), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        tokens = tokens + self._position_embeddings(patches.shape[-2], patches.shape[-1])
        for block in self.blocks:
            tokens = block(tokens)
        class_token: Tensor = self.norm(tokens[:, 0])
        return class_token

    def _position_embeddings(self, height: int, width: int) -> Tensor:
        """Return the learned position embeddings, resized to the grid of the image."""
        class_position, patches = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        if (height, width) == (self.grid, self.grid):
            return self.pos_embed
        grid = patches.view(1, self.grid, self.grid, -1).permute(0, 3, 1, 2)
        scale = ((height + POSITION_OFFSET) / self.grid, (width + POSITION_OFFSET) / self.grid)
        resized_grid = F.interpolate(grid, scale_factor=scale, mode="bicubic")
        return torch.cat([class_position, resized_grid.flatten(2).transpose(1, 2)], dim=1)


def build_network(weights: Mapping[str, Tensor], path: Path) -> DinoV2:
    """Build the network for published weights according to their shapes.

    Raises:
        ValueError: The weights are those of another network, such as one with registers or ViT-g/14.
    """
    try:
        positions, patches = weights["pos_embed"], weights["patch_embed.proj.weight"]
        depth = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
        if patches.shape[0] > MAX_CHANNELS:
            raise ValueError(f"{patches.shape[0]} channels are more than ViT-L/14 has")
        with torch.device("meta"):
            network = DinoV2(patches.shape[0], depth, patches.shape[-1], math.isqrt(positions.shape[1] - 1))
        network.load_state_dict({name: weight.float() for name, weight in weights.items()}, assign=True)
    except (KeyError, IndexError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            "weights of features=dinov2 must be those of DINOv2 ViT-S/14, ViT-B/14 or ViT-L/14 without registers, got "
            f"other weights in {path}: {reason}"
        ) from error
    return network


class DinoV2Extractor(NetworkExtractor):
    """Class token of DINOv2 for images resized to 224 × 224.

    Args:
        path: Weights file.
        sha256: Expected SHA-256.
        device: Device of the network.

    Raises:
        ValueError: The file has another hash, or weights of another network.
    """

    name = "dinov2"
    size = SIZE
    preparation = "bicubic, antialiased, rounded; mean and deviation of ImageNet"

    def __init__(self, path: Path, sha256: str, device: str | torch.device = "cpu") -> None:
        network = build_network(read_weights("dinov2", path, sha256), path)
        self.num_features = network.norm.normalized_shape[0]
        if self.num_features != MAX_CHANNELS:  # the default network
            self.name = f"dinov2_{ {384: 'vits14', 768: 'vitb14'}.get(self.num_features, self.num_features) }"
        super().__init__(network, device)

    def prepare(self, pixels: Pixels) -> Images:
        return normalize_images(resize_images(pixels, SIZE), MEAN, STD)

    def forward(self, images: Images) -> Extracted:
        return Extracted(self.network(images))


def normalize_images(pixels: Pixels, mean: tuple[float, ...], std: tuple[float, ...]) -> Images:
    """Scale pixels from 0–255 to [0, 1], then standardize each channel by its mean and standard deviation."""
    shift, scale = (torch.tensor(values, device=pixels.device).view(1, -1, 1, 1) for values in (mean, std))
    return (pixels.float() / 255 - shift) / scale
