"""Diffusion transformer on patches of pixels with adaptive layer norm (DiT, adaLN-Zero, arXiv:2212.09748)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from diffusion_lab.networks.blocks import (
    Embedding,
    Recomputable,
    Tokens,
    attention,
    flatten_positions,
    num_heads,
    sinusoidal_embedding,
    unflatten_positions,
    zero_init,
)
from diffusion_lab.networks.image_network import ImageNetwork
from diffusion_lab.shapes import Images

TIME_WAVES = 256
"""Number of cosines and sines in the time embedding (arXiv:2212.09748, appendix A)."""


Modulation = Float[Tensor, "#n 1 c"]
"""Shift, scale or gate of each channel, for each image or for all."""


def modulated_layer_norm(tokens: Tokens, shift: Modulation, scale: Modulation) -> Tokens:
    """Layer normalisation (arXiv:1607.06450) with given shift and scale, multiplied by ``1 + scale``."""
    return torch.addcmul(shift, functional.layer_norm(tokens, tokens.shape[-1:], eps=1e-6), 1 + scale)


def grid_position_embedding(
    height: int, width: int, channels: int, device: torch.device
) -> Float[Tensor, "positions c"]:
    """Position embedding of a grid, ``(height·width, channels)``: half the channels for the row, half for the column.

    It is fixed, not learned, so it exists for any grid, as in arXiv:2212.09748, section 3.2; the highest frequency is
    one radian per step. ``channels`` is divisible by 4.
    """
    rows, columns = (
        sinusoidal_embedding(torch.arange(count, device=device), channels // 2, fastest=1) for count in (height, width)
    )
    along = rows[:, None].expand(-1, width, -1), columns.expand(height, -1, -1)
    return torch.cat(along, dim=2).flatten(0, 1)


class TransformerBlock(Recomputable):
    """Residual self-attention and MLP; the embedding shifts, scales and gates both.

    The gates start at zero, so the block starts as the identity (arXiv:2212.09748, figure 3, adaLN-Zero).

    Args:
        channels: Channels of a token, and of the embedding.
        head_channels: Minimum channels of an attention head.
        dropout: Dropout probability at the end of each branch.
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
            if isinstance(layer, nn.Linear):  # as in the Vision Transformer (arXiv:2010.11929)
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        self.modulate = zero_init(nn.Linear(channels, 6 * channels))

    def compute(self, tokens: Tokens, embedding: Embedding) -> Tokens:  # type: ignore[override]
        """Map tokens ``(N, L, channels)`` to the same shape; the embedding has N rows, or one for all."""
        modulation = self.modulate(functional.silu(embedding))[:, None]
        shift_in, scale_in, gate_in, shift_out, scale_out, gate_out = modulation.chunk(6, dim=2)
        mixed = attention(self.queries_keys_values(modulated_layer_norm(tokens, shift_in, scale_in)), self.heads)
        tokens = torch.addcmul(tokens, gate_in, self.dropout(self.project(mixed)))
        changed = self.layers(modulated_layer_norm(tokens, shift_out, scale_out))
        return torch.addcmul(tokens, gate_out, self.dropout(changed))


class DiT(ImageNetwork):
    """Sequence of transformer blocks of constant width, with attention between all positions.

    Height and width of the images must be divisible by ``patch_size``. There is one stage, so ``channel_multipliers``
    has one entry and ``use_attention`` is ``[True]``.

    Args:
        in_channels: Input and output channels.
        model_channels: Channels of a token before the multiplier; their product must be divisible by 4.
        channel_multipliers: One multiplier, in units of ``model_channels``.
        use_attention: ``[True]``.
        num_classes: Number of classes, None for a network without labels.
        num_res_blocks: Number of transformer blocks.
        dropout: Dropout probability at the end of attention and MLP branches.
        head_channels: Minimum channels of an attention head.
        patch_size: Side of the square of pixels that becomes one token; for many tokens the cost is quadratic in their
            number.

    Raises:
        ValueError: More than one stage, a stage without attention, or a width not divisible by 4.
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

    def map_patches(self, patches: Images, embedding: Embedding) -> Images:
        hidden = self.enter(patches)
        height, width = hidden.shape[-2:]
        tokens = flatten_positions(hidden)
        tokens = tokens + grid_position_embedding(height, width, tokens.shape[-1], tokens.device).to(tokens.dtype)
        for block in self.blocks:
            tokens = block(tokens, embedding)
        shift, scale = self.modulate(functional.silu(embedding))[:, None].chunk(2, dim=2)
        output: Tensor = self.leave(unflatten_positions(modulated_layer_norm(tokens, shift, scale), (height, width)))
        return output
