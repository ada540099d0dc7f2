"""A transformer on patches of pixels, conditioned by adaptive layer norm: DiT with adaLN-Zero (arXiv:2212.09748)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffusion_lab.networks.blocks import (
    Recomputable,
    attention,
    flatten_positions,
    num_heads,
    sinusoidal_embedding,
    unflatten_positions,
    zero_init,
)
from diffusion_lab.networks.image_network import ImageNetwork

TIME_WAVES = 256
"""Cosines and sines of a time (arXiv:2212.09748, appendix A)."""


def modulated_layer_norm(tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer normalisation (arXiv:1607.06450) whose shift and scale are given, the scale counted from one."""
    return torch.addcmul(shift, functional.layer_norm(tokens, tokens.shape[-1:], eps=1e-6), 1 + scale)


def grid_position_embedding(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """Where each position of a grid lies, ``(height·width, channels)``: half the channels for the row, half the column.

    Fixed, not learned, so any grid has one. As of arXiv:2212.09748, section 3.2; a step is one radian of the fastest
    wave. ``channels`` is divisible by 4.
    """
    rows, columns = (
        sinusoidal_embedding(torch.arange(count, device=device), channels // 2, fastest=1) for count in (height, width)
    )
    along = rows[:, None].expand(-1, width, -1), columns.expand(height, -1, -1)
    return torch.cat(along, dim=2).flatten(0, 1)


class TransformerBlock(Recomputable):
    """Self-attention, then two layers, each around a skip; the embedding shifts, scales and gates both.

    The gates begin as zero, and so the block as the identity (arXiv:2212.09748, figure 3, adaLN-Zero).

    Args:
        channels: Channels of a token, and of the embedding.
        head_channels: Least number of channels of an attention head.
        dropout: Share of the outcome of either branch dropped before it is added.
    """

    def __init__(self, channels: int, head_channels: int, dropout: float) -> None:
        super().__init__()
        self.heads = num_heads(channels, head_channels)
        self.queries_keys_values = nn.Linear(channels, 3 * channels)
        self.project = nn.Linear(channels, channels)
        self.layers = nn.Sequential(
            nn.Linear(channels, 4 * channels), nn.GELU(approximate="tanh"), nn.Linear(4 * channels, channels)
        )
        self.dropout = nn.Dropout(dropout)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):  # as in the vision transformer, which DiT follows (arXiv:2010.11929)
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        self.modulate = zero_init(nn.Linear(channels, 6 * channels))

    def change(self, tokens: Tensor, embedding: Tensor) -> Tensor:  # type: ignore[override]
        """Map tokens ``(N, L, channels)`` to the same shape; the embedding has N rows, or one for all."""
        given = self.modulate(functional.silu(embedding))[:, None]
        shift_in, scale_in, gate_in, shift_out, scale_out, gate_out = given.chunk(6, dim=2)
        mixed = attention(self.queries_keys_values(modulated_layer_norm(tokens, shift_in, scale_in)), self.heads)
        tokens = torch.addcmul(tokens, gate_in, self.dropout(self.project(mixed)))
        changed = self.layers(modulated_layer_norm(tokens, shift_out, scale_out))
        return torch.addcmul(tokens, gate_out, self.dropout(changed))


class DiT(ImageNetwork):
    """A row of transformer blocks of one width, each position attending to all.

    Height and width of the images must be divisible by ``patch_size``. There is one stage, so ``channel_multipliers``
    has one entry and ``use_attention`` is ``[True]``.

    Args:
        in_channels: Channels of the images, in and out.
        model_channels: Channels of a token before the multiplier; with it divisible by 4.
        channel_multipliers: One, in units of ``model_channels``.
        use_attention: ``[True]``.
        num_classes: Number of classes, None for a network without labels.
        num_res_blocks: Transformer blocks.
        dropout: Share of the outcome of attention and of layers dropped before it is added.
        head_channels: Least number of channels of an attention head.
        patch_size: Side of the square of pixels that becomes one token; the work grows as the square of the number of
            tokens where they are many.

    Raises:
        ValueError: More than one stage, a stage without attention, or a width that 4 does not divide.
    """

    def __init__(
        self,
        in_channels: int,
        model_channels: int,
        channel_multipliers: Sequence[int],
        use_attention: Sequence[bool],
        num_classes: int | None = None,
        num_res_blocks: int = 2,
        dropout: float = 0.0,
        head_channels: int = 32,
        patch_size: int = 1,
    ) -> None:
        if len(channel_multipliers) != 1:
            raise ValueError(f"channel_multipliers must have one entry for a DiT, got {list(channel_multipliers)}")
        if list(use_attention) != [True]:
            raise ValueError(f"use_attention must be [True] for a DiT, got {list(use_attention)}")
        channels = model_channels * channel_multipliers[0]
        if channels % 4:
            raise ValueError(f"model_channels times its multiplier must be divisible by 4 for a DiT, got {channels}")
        super().__init__(TIME_WAVES, channels, num_classes, patch_size)
        patch_channels = in_channels * patch_size**2
        self.enter = nn.Conv2d(patch_channels, channels, 1)
        self.blocks = nn.ModuleList(TransformerBlock(channels, head_channels, dropout) for _ in range(num_res_blocks))
        self.modulate = zero_init(nn.Linear(channels, 2 * channels))
        self.leave = zero_init(nn.Conv2d(channels, patch_channels, 1))

    def map_patches(self, patches: Tensor, embedding: Tensor) -> Tensor:
        hidden = self.enter(patches)
        height, width = hidden.shape[-2:]
        tokens = flatten_positions(hidden)
        tokens = tokens + grid_position_embedding(height, width, tokens.shape[-1], tokens.device).to(tokens.dtype)
        for block in self.blocks:
            tokens = block(tokens, embedding)
        shift, scale = self.modulate(functional.silu(embedding))[:, None].chunk(2, dim=2)
        output: Tensor = self.leave(unflatten_positions(modulated_layer_norm(tokens, shift, scale), (height, width)))
        return output
