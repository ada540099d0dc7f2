"""Building blocks of image networks."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeVar

import torch
from jaxtyping import Float, Float32, Shaped
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from diffusion_lab.cpu.convolution import Conv3x3
from diffusion_lab.shapes import Images, PerImage

Embedding = Float[Tensor, "#n e"]
"""Embedding of time and label: one row per image, or one for all."""

FeatureMaps = Float[Tensor, "n _ _ _"]
"""Features ``(N, C, H, W)`` of any resolution."""

Tokens = Float[Tensor, "n l c"]
"""Channels of L positions of each image."""

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


def zero_init(layer: Layer) -> Layer:
    """Initialize a layer to zero, so that the block it ends starts as the identity (arXiv:1901.09321)."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation (arXiv:1803.08494) in up to 32 groups of at least 4 channels (code of arXiv:2206.00364).

    Groups of one channel would erase the mean of each channel over the image.
    """
    most = min(32, max(channels // 4, 1))
    return nn.GroupNorm(next(groups for groups in range(most, 0, -1) if channels % groups == 0), channels)


def sinusoidal_embedding(positions: Shaped[Tensor, " n"], width: int, fastest: float) -> Float32[Tensor, "n {width}"]:
    """Cosines and sines of positions in geometric frequencies (arXiv:1706.03762, 3.5), float32 ``(N, width)``.

    Args:
        positions: Any numbers ``(N,)``.
        width: Total number of cosines and sines; even.
        fastest: Highest frequency in radians per unit; the lowest is nearly 10 000 times smaller.
    """
    steps = torch.arange(width // 2, dtype=torch.float32, device=positions.device)
    frequencies = fastest * torch.exp(-math.log(10_000) * steps / (width // 2))
    angles = positions.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class TimeEmbedding(nn.Module):
    """Sinusoidal embedding of a time in [0, 1], followed by two layers.

    Args:
        width: Total number of sines and cosines; even.
        channels: Length of the embedding.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.width = width // 2 * 2
        self.layers = nn.Sequential(nn.Linear(self.width, channels), nn.SiLU(), nn.Linear(channels, channels))

    def forward(self, time: PerImage) -> Float[Tensor, "n e"]:
        """Embed times ``(N,)`` as ``(N, channels)``."""
        # The usual number of steps as the highest frequency, so that adjacent steps differ.
        waves = sinusoidal_embedding(time, self.width, fastest=1000)
        # Frequencies and angles need float32 whatever the dtype of the weights, so only the result is cast.
        embedded: Tensor = self.layers(waves.to(next(self.layers.parameters()).dtype))
        return embedded


class Recomputable(nn.Module, ABC):
    """Block with optional activation checkpointing (arXiv:1604.06174): recompute activations in the backward pass.

    ``recompute`` switches it on; without gradients, no activations are kept in any case.
    """

    recompute = False

    def forward(self, *inputs: Tensor) -> Tensor:
        """Map the inputs to the output."""
        if not (self.recompute and torch.is_grad_enabled()):
            return self.compute(*inputs)
        # Dropout uses torch's global generator and must drop the same again; without it there is no state to restore.
        draws = any(isinstance(module, nn.Dropout) and module.p > 0 for module in self.modules())
        output: Tensor = checkpoint(self.compute, *inputs, use_reentrant=False, preserve_rng_state=draws)
        return output

    @abstractmethod
    def compute(self, *inputs: Tensor) -> Tensor:
        """Compute the output as ``forward`` does, keeping activations."""


class ResidualBlock(nn.Module):
    """Residual block of two convolutions; the embedding scales and shifts between them (arXiv:2105.05233, 3.1).

    Args:
        channels: Input channels.
        out_channels: Output channels.
        embedding_channels: Length of the embedding of time and label.
        dropout: Dropout probability before the second convolution.
    """

    def __init__(self, channels: int, out_channels: int, embedding_channels: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm_in = group_norm(channels)
        self.conv_in = Conv3x3(channels, out_channels)
        self.embed = nn.Linear(embedding_channels, 2 * out_channels)
        self.norm_out = group_norm(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = zero_init(Conv3x3(out_channels, out_channels))
        self.skip = nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)

    def forward(self, images: Images, embedding: Embedding) -> Float[Tensor, "n k h w"]:
        """Map ``(N, channels, H, W)`` to ``(N, out_channels, H, W)``; the embedding has N rows, or one for all."""
        scale, shift = self.embed(functional.silu(embedding))[:, :, None, None].chunk(2, dim=1)
        in_place = not torch.is_grad_enabled()  # a gradient needs the input; otherwise this saves memory
        hidden = self.conv_in(functional.silu(self.norm_in(images), in_place))
        hidden = self.norm_out(hidden)
        hidden = torch.addcmul(shift, hidden, 1 + scale, out=_output_buffer(hidden, shift))
        hidden = self.conv_out(self.dropout(functional.silu(hidden, in_place)))
        return residual_sum(self.skip(images), hidden)


def residual_sum(skip: Float[Tensor, "*shape"], new: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the sum of two tensors of the same shape; ``new`` may be overwritten."""
    total: Tensor = torch.add(skip, new, out=_output_buffer(new, skip))
    return total


def _output_buffer(new: Tensor, other: Tensor) -> Tensor | None:
    """Return ``new`` as the buffer for a result of both tensors, or None if a gradient needs it.

    Only for float32: with other dtypes autocast may compute in a wider one than that of the buffer. A compiler plans
    memory itself, and this would cause a graph break.
    """
    reusable = not (torch.is_grad_enabled() or torch.compiler.is_compiling())
    return new if reusable and new.dtype == other.dtype == torch.float32 else None


def num_heads(channels: int, head_channels: int) -> int:
    """Return the number of heads of at least ``head_channels`` that divide the channels evenly; at least one."""
    most = max(channels // head_channels, 1)
    return next(heads for heads in range(most, 0, -1) if channels % heads == 0)


def attention(queries_keys_values: Float[Tensor, "n l c3"], heads: int) -> Tokens:
    """Multi-head attention between positions (arXiv:1706.03762).

    Args:
        queries_keys_values: Queries, keys and values, concatenated, ``(N, L, 3C)``.
        heads: Number of heads, which divides C.

    Returns:
        The attended values ``(N, L, C)``.
    """
    parts = queries_keys_values.unflatten(2, (3, heads, -1))
    queries, keys, values = parts.permute(2, 0, 3, 1, 4).unbind(0)  # (N, heads, L, C/heads) each
    mixed: Tensor = functional.scaled_dot_product_attention(queries, keys, values)
    return mixed.transpose(1, 2).flatten(2)


def flatten_positions(images: Images) -> Float[Tensor, "n h*w c"]:
    """Reshape ``(N, C, H, W)`` to ``(N, H·W, C)``; a view for channels-last memory."""
    return images.permute(0, 2, 3, 1).flatten(1, 2)


def unflatten_positions(positions: Tokens, size: Sequence[int]) -> Images:
    """Reshape positions ``(N, H·W, C)`` to ``(N, C, H, W)`` of size ``(H, W)``, in channels-last memory."""
    images: Tensor = positions.unflatten(1, size).permute(0, 3, 1, 2)
    return images


class SelfAttention(nn.Module):
    """Residual self-attention between all pixels (arXiv:1805.08318).

    Args:
        channels: Input and output channels.
        head_channels: Minimum channels of a head; the number of heads divides the channels evenly.
    """

    def __init__(self, channels: int, head_channels: int) -> None:
        super().__init__()
        self.heads = num_heads(channels, head_channels)
        self.norm = group_norm(channels)
        self.queries_keys_values = nn.Conv2d(channels, 3 * channels, 1)
        self.project = zero_init(nn.Conv2d(channels, channels, 1))

    def forward(self, images: Images) -> Images:
        """Map ``(N, channels, H, W)`` to the same shape."""
        mixed = attention(flatten_positions(self.queries_keys_values(self.norm(images))), self.heads)
        return residual_sum(images, self.project(unflatten_positions(mixed, images.shape[-2:])))
