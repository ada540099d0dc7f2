"""UNet of residual blocks and self-attention (arXiv:1505.04597; for diffusion arXiv:2006.11239, 2105.05233)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffusion_lab.cpu.convolution import Conv3x3
from diffusion_lab.networks.blocks import (
    Embedding,
    FeatureMaps,
    Recomputable,
    ResidualBlock,
    SelfAttention,
    group_norm,
    zero_init,
)
from diffusion_lab.networks.image_network import ImageNetwork
from diffusion_lab.shapes import Images


class Block(Recomputable):
    """Residual block, followed by self-attention if ``head_channels`` is given."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        embedding_channels: int,
        dropout: float = 0.0,
        head_channels: int | None = None,
    ) -> None:
        super().__init__()
        self.residual = ResidualBlock(channels, out_channels, embedding_channels, dropout)
        self.attention = SelfAttention(out_channels, head_channels) if head_channels else nn.Identity()

    def compute(self, embedding: Embedding, *images: FeatureMaps) -> FeatureMaps:  # type: ignore[override]
        """Map images ``(N, C, H, W)``, with ``channels`` channels in total, to ``(N, out_channels, H, W)``."""
        # Concatenated here, so that with ``recompute`` no copy of them is kept.
        combined = images[0] if len(images) == 1 else torch.cat(images, dim=1)
        output: Tensor = self.attention(self.residual(combined, embedding))
        return output


MakeBlock = Callable[[int, int], Block]
"""Creates a block with given input and output channels and the shared settings of its stage."""


class DownStage(nn.Module):
    """Encoder stage: halves the resolution, except in the first stage, then applies its blocks."""

    def __init__(self, channels: int, width: int, num_blocks: int, downsample: bool, make_block: MakeBlock) -> None:
        super().__init__()
        self.shrink = nn.Conv2d(channels, channels, 3, stride=2, padding=1) if downsample else None
        self.blocks = nn.ModuleList(make_block(width if index else channels, width) for index in range(num_blocks))
        self.skip_channels = [channels] * downsample + [width] * num_blocks
        """Channels of each output."""

    def forward(self, hidden: FeatureMaps, embedding: Embedding) -> list[FeatureMaps]:
        """Return all outputs, as skip connections for the decoder; the last is the output of the stage."""
        skips = []
        if self.shrink is not None:
            hidden = self.shrink(hidden)
            skips.append(hidden)
        for block in self.blocks:
            hidden = block(embedding, hidden)
            skips.append(hidden)
        return skips


class UpStage(nn.Module):
    """Decoder stage: each block also gets a skip connection; then the resolution is doubled."""

    def __init__(self, channels: int, width: int, skips: Sequence[int], upsample: bool, make_block: MakeBlock) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            make_block((width if index else channels) + skip, width) for index, skip in enumerate(skips)
        )
        self.grow = Conv3x3(width, width) if upsample else None

    def forward(self, hidden: FeatureMaps, embedding: Embedding, skips: list[FeatureMaps]) -> FeatureMaps:
        """Apply the stage; its skip connections are popped from the end of ``skips``."""
        for block in self.blocks:
            hidden = block(embedding, hidden, skips.pop())
        if self.grow is not None:
            hidden = self.grow(functional.interpolate(hidden, scale_factor=2.0))
        return hidden


class UNet(ImageNetwork):
    """UNet with optional self-attention in each stage.

    Each stage has half the resolution of the one before; every encoder block has a skip connection to its counterpart
    in the decoder. Height and width of the images must be divisible by ``patch_size`` times two to the power of the
    number of stages minus one.

    Args:
        in_channels: Input and output channels.
        model_channels: Channels of the first stage before its multiplier.
        channel_multipliers: Multiplier of each stage, in units of ``model_channels``.
        use_attention: Whether the blocks of each stage have self-attention; the middle is like the last stage.
        num_classes: Number of classes, None for a network without labels.
        num_res_blocks: Residual blocks per encoder stage; decoder stages have one more.
        dropout: Dropout probability in each residual block.
        head_channels: Minimum channels of an attention head.
        patch_size: Side of the square of pixels that becomes one position of the first stage; 2 takes a quarter of the
            work of 1 at the same number of channels.
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
        embedding_channels = 4 * model_channels
        super().__init__(max(model_channels, 2), embedding_channels, num_classes, patch_size)
        patch_channels, channels = in_channels * patch_size**2, model_channels
        make_block = partial(Block, embedding_channels=embedding_channels, dropout=dropout)
        stages = [
            (model_channels * multiplier, partial(make_block, head_channels=head_channels if attends else None))
            for multiplier, attends in zip(channel_multipliers, use_attention, strict=True)
        ]
        self.enter = nn.Conv2d(patch_channels, channels, 3, padding=1)
        skip_channels = [channels]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for index, (width, make_stage_block) in enumerate(stages):
            stage = DownStage(channels, width, num_res_blocks, index > 0, make_stage_block)
            self.down.append(stage)
            skip_channels += stage.skip_channels
            channels = width
        self.middle = nn.ModuleList([stages[-1][1](channels, channels), make_block(channels, channels)])
        for index, (width, make_stage_block) in reversed(list(enumerate(stages))):
            skips = [skip_channels.pop() for _ in range(num_res_blocks + 1)]
            self.up.append(UpStage(channels, width, skips, index > 0, make_stage_block))
            channels = width
        last = zero_init(nn.Conv2d(channels, patch_channels, 3, padding=1))
        self.leave = nn.Sequential(group_norm(channels), nn.SiLU(), last)

    def map_patches(self, patches: Images, embedding: Embedding) -> Images:
        skips = [self.enter(patches)]
        for stage in self.down:
            skips += stage(skips[-1], embedding)
        hidden = skips[-1]
        for block in self.middle:
            hidden = block(embedding, hidden)
        for stage in self.up:
            hidden = stage(hidden, embedding, skips)
        output: Tensor = self.leave(hidden)
        return output
