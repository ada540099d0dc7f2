"""Diffusion transformer on patches of pixels with adaptive layer norm (DiT, adaLN-Zero, arXiv:2212.09748)."""

from __future__ import annotations

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
        heads: Attention heads; divides the channels.
        mlp_ratio: Channels of the hidden layer of the MLP, divided by those of a token.
        dropout: Dropout probability at the end of each branch.
    """

    def __init__(self, channels: int, heads: int, mlp_ratio: float = 4.0, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, hidden = heads, int(channels * mlp_ratio)
        self.queries_keys_values = nn.Linear(channels, 3 * channels)
        self.project = nn.Linear(channels, channels)
        self.layers = nn.Sequential(
            nn.Linear(channels, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, channels)
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

    Height and width of the images must be divisible by ``patch_size``.

    Args:
        in_channels: Input and output channels.
        hidden_size: Channels of a token; divisible by 4 and by ``num_heads``.
        depth: Number of transformer blocks.
        num_heads: Attention heads of each block.
        num_classes: Number of classes, None for a network without labels.
        mlp_ratio: Channels of the hidden layer of each MLP, divided by ``hidden_size``; at least one channel.
        patch_size: Side of the square of pixels that becomes one token; for many tokens the cost is quadratic in their
            number.
        dropout: Dropout probability at the end of attention and MLP branches.

    Raises:
        ValueError: ``hidden_size`` is not divisible by 4, or not by ``num_heads``.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_size: int,
        depth: int,
        num_heads: int,
        num_classes: int | None = None,
        mlp_ratio: float = 4.0,
        patch_size: int = 1,
        dropout: float = 0.0,
    ) -> None:
        if hidden_size % 4:
            raise ValueError(f"hidden_size must be divisible by 4 for a DiT, got {hidden_size}")
        if hidden_size % num_heads:
            raise ValueError(f"num_heads must divide hidden_size, {hidden_size}, got {num_heads}")
        super().__init__(TIME_WAVES, hidden_size, num_classes, patch_size)
        patch_channels = in_channels * patch_size**2
        self.enter = nn.Conv2d(patch_channels, hidden_size, 1)
        self.blocks = nn.ModuleList(TransformerBlock(hidden_size, num_heads, mlp_ratio, dropout) for _ in range(depth))
        self.modulate = zero_init(nn.Linear(hidden_size, 2 * hidden_size))
        self.leave = zero_init(nn.Conv2d(hidden_size, patch_channels, 1))

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
