"""A UNet of residual blocks and self-attention (arXiv:1505.04597; for diffusion arXiv:2006.11239, 2105.05233)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffusion_lab.networks.blocks import Recomputable, ResidualBlock, SelfAttention, group_norm, zero_init
from diffusion_lab.networks.convolution import Conv3x3
from diffusion_lab.networks.image_network import ImageNetwork


class Block(Recomputable):
    """A residual block, and self-attention after it where ``head_channels`` is given."""

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

    def change(self, embedding: Tensor, *images: Tensor) -> Tensor:  # type: ignore[override]
        """Map images ``(N, C, H, W)``, their channels together ``channels``, to ``(N, out_channels, H, W)``."""
        # Put side by side in here, so that with ``recompute`` no copy of them is kept.
        beside = images[0] if len(images) == 1 else torch.cat(images, dim=1)
        output: Tensor = self.attention(self.residual(beside, embedding))
        return output


MakeBlock = Callable[[int, int], Block]
"""A block of given channels in and out, with what all blocks of a stage share."""


class DownStage(nn.Module):
    """A stage on the way down: halves the resolution, except in the first stage, then its blocks."""

    def __init__(self, channels: int, width: int, num_blocks: int, shrinks: bool, make_block: MakeBlock) -> None:
        super().__init__()
        self.shrink = nn.Conv2d(channels, channels, 3, stride=2, padding=1) if shrinks else None
        self.blocks = nn.ModuleList(make_block(width if index else channels, width) for index in range(num_blocks))
        self.kept = [channels] * shrinks + [width] * num_blocks
        """Channels of each output."""

    def forward(self, hidden: Tensor, embedding: Tensor) -> list[Tensor]:
        """Every output on the way, each kept for the way up; the last is the stage's."""
        kept = []
        if self.shrink is not None:
            hidden = self.shrink(hidden)
            kept.append(hidden)
        for block in self.blocks:
            hidden = block(embedding, hidden)
            kept.append(hidden)
        return kept


class UpStage(nn.Module):
    """A stage on the way up: each block also sees an output of the way down; then the resolution is doubled."""

    def __init__(self, channels: int, width: int, skips: Sequence[int], grows: bool, make_block: MakeBlock) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            make_block((width if index else channels) + skip, width) for index, skip in enumerate(skips)
        )
        self.grow = Conv3x3(width, width) if grows else None

    def forward(self, hidden: Tensor, embedding: Tensor, kept: list[Tensor]) -> Tensor:
        """Takes what it needs from the end of ``kept``."""
        for block in self.blocks:
            hidden = block(embedding, hidden, kept.pop())
        if self.grow is not None:
            hidden = self.grow(functional.interpolate(hidden, scale_factor=2.0))
        return hidden


class UNet(ImageNetwork):
    """Convolutions, and self-attention where it is asked for, at one resolution after the other.

    A stage works at half the resolution of the one before it; every block of the way down hands its output to its
    counterpart on the way up. Height and width of the images must be divisible by ``patch_size`` times two to the
    power of the stages less one.

    Args:
        in_channels: Channels of the images, in and out.
        model_channels: Channels of the first stage before its multiplier.
        channel_multipliers: One for each stage, in units of ``model_channels``.
        use_attention: For each stage, whether its blocks have self-attention; the middle does as the last stage.
        num_classes: Number of classes, None for a network without labels.
        num_res_blocks: Residual blocks of a stage on the way down; one more on the way up.
        dropout: Share of the activations dropped in each residual block.
        head_channels: Least number of channels of an attention head.
        patch_size: Side of the square of pixels that becomes one position of the first stage; 2 does a quarter of the
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
        kept = [channels]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for index, (width, make_stage_block) in enumerate(stages):
            stage = DownStage(channels, width, num_res_blocks, index > 0, make_stage_block)
            self.down.append(stage)
            kept += stage.kept
            channels = width
        self.middle = nn.ModuleList([stages[-1][1](channels, channels), make_block(channels, channels)])
        for index, (width, make_stage_block) in reversed(list(enumerate(stages))):
            skips = [kept.pop() for _ in range(num_res_blocks + 1)]
            self.up.append(UpStage(channels, width, skips, index > 0, make_stage_block))
            channels = width
        last = zero_init(nn.Conv2d(channels, patch_channels, 3, padding=1))
        self.leave = nn.Sequential(group_norm(channels), nn.SiLU(), last)

    def map_patches(self, patches: Tensor, embedding: Tensor) -> Tensor:
        kept = [self.enter(patches)]
        for stage in self.down:
            kept += stage(kept[-1], embedding)
        hidden = kept[-1]
        for block in self.middle:
            hidden = block(embedding, hidden)
        for stage in self.up:
            hidden = stage(hidden, embedding, kept)
        output: Tensor = self.leave(hidden)
        return output
