"""The blocks that image networks are made of."""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


def zero_initialised(layer: Layer) -> Layer:
    """Let a layer begin as zero, so that the block it ends begins as the identity (arXiv:1901.09321)."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation (arXiv:1803.08494) in up to 32 groups of at least 4 channels (arXiv:2206.00364, its code).

    Groups of one channel would erase what a channel says of the image as a whole.
    """
    most = min(32, max(channels // 4, 1))
    return nn.GroupNorm(next(groups for groups in range(most, 0, -1) if channels % groups == 0), channels)


class TimeEmbedding(nn.Module):
    """Sines and cosines of a time in [0, 1] in geometric frequencies (arXiv:1706.03762, 3.5), then two layers.

    Args:
        width: Number of sines and cosines together; even.
        channels: Length of the embedding.
    """

    frequencies: Tensor

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        # Time is stretched to a thousand, the usual number of steps, and the slowest wave turns once in ten thousand.
        frequencies = 1000 * torch.exp(-math.log(10_000) * torch.arange(width // 2) / (width // 2))
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.layers = nn.Sequential(nn.Linear(width // 2 * 2, channels), nn.SiLU(), nn.Linear(channels, channels))

    def forward(self, time: Tensor) -> Tensor:
        """Embed times ``(N,)`` as ``(N, channels)``."""
        angles = time.float()[:, None] * self.frequencies
        embedded: Tensor = self.layers(torch.cat([angles.cos(), angles.sin()], dim=1))
        return embedded


class ResidualBlock(nn.Module):
    """Two convolutions around a skip; the embedding scales and shifts between them (arXiv:2105.05233, section 3.1).

    Args:
        channels: Channels that come in.
        out_channels: Channels that go out.
        embedding_channels: Length of the embedding of time and label.
        dropout: Share of the activations dropped before the second convolution.
    """

    def __init__(self, channels: int, out_channels: int, embedding_channels: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm_in = group_norm(channels)
        self.conv_in = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.embed = nn.Linear(embedding_channels, 2 * out_channels)
        self.norm_out = group_norm(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = zero_initialised(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip = nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)

    def forward(self, images: Tensor, embedding: Tensor) -> Tensor:
        """Map ``(N, channels, H, W)`` to ``(N, out_channels, H, W)``; the embedding has N rows, or one for all."""
        scale, shift = self.embed(functional.silu(embedding))[:, :, None, None].chunk(2, dim=1)
        hidden = self.conv_in(functional.silu(self.norm_in(images)))
        hidden = torch.addcmul(shift, self.norm_out(hidden), 1 + scale)
        hidden = self.conv_out(self.dropout(functional.silu(hidden)))
        output: Tensor = self.skip(images) + hidden
        return output


class SelfAttention(nn.Module):
    """Every pixel attends to every other, around a skip (arXiv:1706.03762; in images arXiv:1805.08318).

    Args:
        channels: Channels in and out.
        head_channels: Least number of channels of a head. There are as many heads as divide the channels evenly.
    """

    def __init__(self, channels: int, head_channels: int) -> None:
        super().__init__()
        most = max(channels // head_channels, 1)
        self.heads = next(heads for heads in range(most, 0, -1) if channels % heads == 0)
        self.norm = group_norm(channels)
        self.queries_keys_values = nn.Conv2d(channels, 3 * channels, 1)
        self.project = zero_initialised(nn.Conv2d(channels, channels, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Map ``(N, channels, H, W)`` to the same shape."""
        count, channels, height, width = images.shape
        hidden: Tensor = self.queries_keys_values(self.norm(images))
        # (N, 3C, H, W) -> three of (N, heads, H·W, C/heads); a view where the memory is channels-last
        parts = hidden.permute(0, 2, 3, 1).reshape(count, height * width, 3, self.heads, channels // self.heads)
        queries, keys, values = parts.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(queries, keys, values)
        mixed = mixed.transpose(1, 2).reshape(count, height, width, channels).permute(0, 3, 1, 2)
        output: Tensor = images + self.project(mixed)
        return output
