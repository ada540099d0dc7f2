"""The blocks that image networks are made of."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from diffusion_lab.networks.convolution import Conv3x3

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


def zero_init(layer: Layer) -> Layer:
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


def sinusoidal_embedding(positions: Tensor, width: int, fastest: float) -> Tensor:
    """Cosines and sines of positions in geometric frequencies (arXiv:1706.03762, 3.5), float32 ``(N, width)``.

    Args:
        positions: Any numbers ``(N,)``.
        width: Number of cosines and sines together; even.
        fastest: Radians by which the fastest wave turns from 0 to 1; the slowest turns nearly 10 000 times less.
    """
    steps = torch.arange(width // 2, dtype=torch.float32, device=positions.device)
    frequencies = fastest * torch.exp(-math.log(10_000) * steps / (width // 2))
    angles = positions.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class TimeEmbedding(nn.Module):
    """Waves of a time in [0, 1], then two layers.

    Args:
        width: Number of sines and cosines together; even.
        channels: Length of the embedding.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.width = width // 2 * 2
        self.layers = nn.Sequential(nn.Linear(self.width, channels), nn.SiLU(), nn.Linear(channels, channels))

    def forward(self, time: Tensor) -> Tensor:
        """Embed times ``(N,)`` as ``(N, channels)``."""
        turned = sinusoidal_embedding(
            time, self.width, fastest=1000
        )  # the usual number of steps, so that neighbours stay apart
        # Frequencies and angles need float32 whatever the weights are, so the waves are rounded last.
        embedded: Tensor = self.layers(turned.to(next(self.layers.parameters()).dtype))
        return embedded


class Recomputable(nn.Module, ABC):
    """A block that may forget its activations and compute them again for the gradient (arXiv:1604.06174).

    ``recompute`` says whether to; where no gradient is asked for, nothing is kept in any case.
    """

    recompute = False

    def forward(self, *inputs: Tensor) -> Tensor:
        """Map the inputs to the output."""
        if not (self.recompute and torch.is_grad_enabled()):
            return self.change(*inputs)
        # Dropout, which draws from torch's own generator, drops the same again; without it there is nothing to restore.
        draws = any(isinstance(module, nn.Dropout) and module.p > 0 for module in self.modules())
        output: Tensor = checkpoint(self.change, *inputs, use_reentrant=False, preserve_rng_state=draws)
        return output

    @abstractmethod
    def change(self, *inputs: Tensor) -> Tensor:
        """What ``forward`` does, its activations kept."""


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
        self.conv_in = Conv3x3(channels, out_channels)
        self.embed = nn.Linear(embedding_channels, 2 * out_channels)
        self.norm_out = group_norm(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = zero_init(Conv3x3(out_channels, out_channels))
        self.skip = nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)

    def forward(self, images: Tensor, embedding: Tensor) -> Tensor:
        """Map ``(N, channels, H, W)`` to ``(N, out_channels, H, W)``; the embedding has N rows, or one for all."""
        scale, shift = self.embed(functional.silu(embedding))[:, :, None, None].chunk(2, dim=1)
        in_place = not torch.is_grad_enabled()  # a gradient needs what comes in; else it is memory saved
        hidden = self.conv_in(functional.silu(self.norm_in(images), in_place))
        hidden = self.norm_out(hidden)
        hidden = torch.addcmul(shift, hidden, 1 + scale, out=_room(hidden, shift))
        hidden = self.conv_out(self.dropout(functional.silu(hidden, in_place)))
        return residual_sum(self.skip(images), hidden)


def residual_sum(skip: Tensor, fresh: Tensor) -> Tensor:
    """The sum of two tensors of one shape; ``fresh`` is nobody else's."""
    total: Tensor = torch.add(skip, fresh, out=_room(fresh, skip))
    return total


def _room(fresh: Tensor, other: Tensor) -> Tensor | None:
    """Where what comes of both may be put: into the first, unless a gradient needs it.

    In float32 alone: with other types autocast may compute in a wider one than that of the room. A compiler, which
    plans memory itself, would cut its program there.
    """
    wanted = not (torch.is_grad_enabled() or torch.compiler.is_compiling())
    return fresh if wanted and fresh.dtype == other.dtype == torch.float32 else None


def num_heads(channels: int, head_channels: int) -> int:
    """How many heads of at least ``head_channels`` divide the channels evenly; one where there are fewer channels."""
    most = max(channels // head_channels, 1)
    return next(heads for heads in range(most, 0, -1) if channels % heads == 0)


def attention(queries_keys_values: Tensor, heads: int) -> Tensor:
    """Let positions attend to each other (arXiv:1706.03762).

    Args:
        queries_keys_values: The three side by side, ``(N, L, 3C)``; ``(N, L, C)`` comes out.
        heads: Number of heads, which divides C.
    """
    parts = queries_keys_values.unflatten(2, (3, heads, -1))
    queries, keys, values = parts.permute(2, 0, 3, 1, 4).unbind(0)  # (N, heads, L, C/heads) each
    mixed: Tensor = functional.scaled_dot_product_attention(queries, keys, values)
    return mixed.transpose(1, 2).flatten(2)


def flatten_positions(images: Tensor) -> Tensor:
    """``(N, C, H, W)`` as ``(N, H·W, C)``; a view where the memory is channels-last."""
    return images.permute(0, 2, 3, 1).flatten(1, 2)


def unflatten_positions(positions: Tensor, size: Sequence[int]) -> Tensor:
    """Positions ``(N, H·W, C)`` as ``(N, C, H, W)`` of size ``(H, W)``, the memory channels-last."""
    images: Tensor = positions.unflatten(1, size).permute(0, 3, 1, 2)
    return images


class SelfAttention(nn.Module):
    """Every pixel attends to every other, around a skip (in images arXiv:1805.08318).

    Args:
        channels: Channels in and out.
        head_channels: Least number of channels of a head. There are as many heads as divide the channels evenly.
    """

    def __init__(self, channels: int, head_channels: int) -> None:
        super().__init__()
        self.heads = num_heads(channels, head_channels)
        self.norm = group_norm(channels)
        self.queries_keys_values = nn.Conv2d(channels, 3 * channels, 1)
        self.project = zero_init(nn.Conv2d(channels, channels, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Map ``(N, channels, H, W)`` to the same shape."""
        mixed = attention(flatten_positions(self.queries_keys_values(self.norm(images))), self.heads)
        return residual_sum(images, self.project(unflatten_positions(mixed, images.shape[-2:])))
