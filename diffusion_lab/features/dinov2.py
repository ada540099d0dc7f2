"""``dinov2``: the vision transformers of DINOv2 (arXiv:2304.07193), for the Fréchet distance of arXiv:2306.04675.

The published way to them, ``torch.hub``, runs code that is fetched. Here only their weights are read.
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
LARGEST = 1024
"""Channels of ViT-L/14; larger ones have another kind of layer."""

POSITION_OFFSET = 0.1
"""What DINOv2 adds to the number of patches when it resizes the grid of its positions: part of how it was trained."""


class _Block(nn.Module):
    """Attention and a two-layer network, each normalised before and scaled after.

    Args:
        channels: Of a token.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels, eps=1e-6), nn.LayerNorm(channels, eps=1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(channels, 3 * channels), "proj": nn.Linear(channels, channels)})
        self.ls1 = nn.ParameterDict({"gamma": nn.Parameter(torch.ones(channels))})
        self.ls2 = nn.ParameterDict({"gamma": nn.Parameter(torch.ones(channels))})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(channels, 4 * channels), "fc2": nn.Linear(4 * channels, channels)})

    def forward(self, tokens: Tensor) -> Tensor:
        """``(B, T, D)`` to ``(B, T, D)``."""
        count, length, channels = tokens.shape
        split = self.attn["qkv"](self.norm1(tokens)).view(count, length, 3, channels // HEAD_CHANNELS, HEAD_CHANNELS)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(tokens.shape)
        tokens = tokens + self.ls1["gamma"] * self.attn["proj"](attended)
        hidden = F.gelu(self.mlp["fc1"](self.norm2(tokens)))
        changed: Tensor = tokens + self.ls2["gamma"] * self.mlp["fc2"](hidden)
        return changed


class DinoV2(nn.Module):
    """A vision transformer with the names of DINOv2's published weights.

    Args:
        channels: Of a token: 384, 768 or 1,024.
        depth: Number of blocks.
        patch_size: Side of a patch in pixels.
        grid: Side of the grid of positions, in patches, that the weights are of.
    """

    def __init__(self, channels: int = 1024, depth: int = 24, patch_size: int = 14, grid: int = 37) -> None:
        super().__init__()
        self.grid, self.patch_size = grid, patch_size
        self.cls_token = nn.Parameter(torch.zeros(1, 1, channels))
        self.mask_token = nn.Parameter(torch.zeros(1, channels))  # published, and only used in training
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid**2, channels))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, channels, patch_size, stride=patch_size)})
        self.blocks = nn.ModuleList(_Block(channels) for _ in range(depth))
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, images: Images) -> Tensor:
        """Images ``(B, 3, H, W)``, sides multiples of the patch, to the class token ``(B, D)``."""
        patches = self.patch_embed["proj"](images)
        tokens = torch.cat([self.cls_token.expand(len(images), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        tokens = tokens + self._positions(patches.shape[-2], patches.shape[-1])
        for block in self.blocks:
            tokens = block(tokens)
        normalised_token: Tensor = self.norm(tokens[:, 0])
        return normalised_token

    def _positions(self, height: int, width: int) -> Tensor:
        """The learned positions, their grid resized to that of the image."""
        first, patches = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        if (height, width) == (self.grid, self.grid):
            return self.pos_embed
        grid = patches.view(1, self.grid, self.grid, -1).permute(0, 3, 1, 2)
        scale = ((height + POSITION_OFFSET) / self.grid, (width + POSITION_OFFSET) / self.grid)
        resized_grid = F.interpolate(grid, scale_factor=scale, mode="bicubic")
        return torch.cat([first, resized_grid.flatten(2).transpose(1, 2)], dim=1)


def network_of(weights: Mapping[str, Tensor], path: Path) -> DinoV2:
    """Build the network that published weights are of, by their shapes.

    Raises:
        ValueError: They are of another network, as those with registers or ViT-g/14 are.
    """
    try:
        positions, patches = weights["pos_embed"], weights["patch_embed.proj.weight"]
        depth = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
        if patches.shape[0] > LARGEST:
            raise ValueError(f"{patches.shape[0]} channels are more than ViT-L/14 has")
        with torch.device("meta"):
            network = DinoV2(patches.shape[0], depth, patches.shape[-1], math.isqrt(positions.shape[1] - 1))
        network.load_state_dict({name: weight.float() for name, weight in weights.items()}, assign=True)
    except (KeyError, IndexError, RuntimeError, ValueError) as error:
        words = str(error).strip().splitlines()[0]
        raise ValueError(
            "weights of features=dinov2 must be those of DINOv2 ViT-S/14, ViT-B/14 or ViT-L/14 without registers, got "
            f"other ones in {path}: {words}"
        ) from error
    return network


class DinoV2Extractor(NetworkExtractor):
    """The class token of DINOv2, of images resized to 224 × 224.

    Args:
        path: File of the weights.
        sha256: SHA-256 that it must have.
        device: Where it computes.

    Raises:
        ValueError: The file has another hash, or holds the weights of another network.
    """

    name = "dinov2"
    size = SIZE
    preparation = "bicubic, antialiased, rounded; mean and deviation of ImageNet"

    def __init__(self, path: Path, sha256: str, device: str | torch.device = "cpu") -> None:
        network = network_of(read_weights("dinov2", path, sha256), path)
        self.num_features = network.norm.normalized_shape[0]
        if self.num_features != LARGEST:  # the one that is meant where none is named
            self.name = f"dinov2_{ {384: 'vits14', 768: 'vitb14'}.get(self.num_features, self.num_features) }"
        super().__init__(network, device)

    def prepare(self, pixels: Pixels) -> Images:
        return normalize_images(resize_images(pixels, SIZE), MEAN, STD)

    def forward(self, images: Images) -> Extracted:
        return Extracted(self.network(images))


def normalize_images(pixels: Pixels, mean: tuple[float, ...], std: tuple[float, ...]) -> Images:
    """Turn 0 to 255 into [0, 1], less the mean and over the standard deviation of each channel."""
    shift, scale = (torch.tensor(values, device=pixels.device).view(1, -1, 1, 1) for values in (mean, std))
    return (pixels.float() / 255 - shift) / scale
