"""A UNet of residual blocks and self-attention (arXiv:1505.04597; for diffusion arXiv:2006.11239, 2105.05233)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffusion_lab.networks.blocks import (
    ResidualBlock,
    SelfAttention,
    TimeEmbedding,
    group_norm,
    zero_initialised,
)
from diffusion_lab.shapes import Images, Labels, Times


class Stage(nn.Module):
    """A residual block, and self-attention after it where a stage has it."""

    def __init__(
        self, channels: int, out_channels: int, embedding_channels: int, dropout: float, head_channels: int | None
    ) -> None:
        super().__init__()
        self.residual = ResidualBlock(channels, out_channels, embedding_channels, dropout)
        self.attention = SelfAttention(out_channels, head_channels) if head_channels else nn.Identity()

    def forward(self, images: Tensor, embedding: Tensor) -> Tensor:
        """Map ``(N, channels, H, W)`` to ``(N, out_channels, H, W)``."""
        output: Tensor = self.attention(self.residual(images, embedding))
        return output


class UNet(nn.Module):
    """Maps images, times and labels to images of the same shape.

    A stage works at half the resolution of the one before it; every block of the way down hands its output to its
    counterpart on the way up. The last convolution begins as zero, so an untrained network outputs zero.

    Args:
        in_channels: Channels of the images, in and out.
        model_channels: Channels of the first stage before its multiplier.
        channel_multipliers: One for each stage, in units of ``model_channels``.
        use_attention: For each stage, whether its blocks have self-attention; the middle does as the last stage.
        num_classes: Number of classes, None for a network without labels.
        num_res_blocks: Residual blocks of a stage on the way down; one more on the way up.
        dropout: Share of the activations dropped in each residual block.
        head_channels: Least number of channels of an attention head.
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
    ) -> None:
        super().__init__()
        embedding_channels = 4 * model_channels
        self.embed_time = TimeEmbedding(max(model_channels, 2), embedding_channels)
        self.embed_label = None if num_classes is None else nn.Embedding(num_classes + 1, embedding_channels)
        self.enter = nn.Conv2d(in_channels, model_channels, 3, padding=1)

        def block(channels: int, out_channels: int, attends: bool) -> Stage:
            return Stage(channels, out_channels, embedding_channels, dropout, head_channels if attends else None)

        widths = [model_channels * multiplier for multiplier in channel_multipliers]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.shrink, self.grow = nn.ModuleList(), nn.ModuleList()
        skips, channels = [model_channels], model_channels
        for index, (width, attends) in enumerate(zip(widths, use_attention, strict=True)):
            if index > 0:
                self.shrink.append(nn.Conv2d(channels, channels, 3, stride=2, padding=1))
                skips.append(channels)
            blocks = nn.ModuleList()
            for _ in range(num_res_blocks):
                blocks.append(block(channels, width, attends))
                channels = width
                skips.append(channels)
            self.down.append(blocks)
        self.middle = nn.ModuleList([block(channels, channels, use_attention[-1]), block(channels, channels, False)])
        for index, (width, attends) in reversed(list(enumerate(zip(widths, use_attention, strict=True)))):
            blocks = nn.ModuleList()
            for _ in range(num_res_blocks + 1):
                blocks.append(block(channels + skips.pop(), width, attends))
                channels = width
            self.up.append(blocks)
            if index > 0:
                self.grow.append(nn.Conv2d(channels, channels, 3, padding=1))
        self.leave = nn.Sequential(
            group_norm(channels), nn.SiLU(), zero_initialised(nn.Conv2d(channels, in_channels, 3, padding=1))
        )

    def forward(self, images: Images, time: Times, label: Labels | None = None) -> Images:
        """Map images ``(N, C, H, W)`` to the same shape.

        Args:
            images: H and W divisible by two to the power of the stages less one.
            time: In [0, 1], ``(N,)``, or ``(1,)`` for all images.
            label: Class numbers ``(N,)``, ``num_classes`` itself for "no label"; None without classes.
        """
        embedding = self.embed_time(time)
        if self.embed_label is not None:
            embedding = embedding + self.embed_label(label)
        hidden = self.enter(images.contiguous(memory_format=torch.channels_last))
        skips = [hidden]
        for index, blocks in enumerate(self.down):
            if index > 0:
                hidden = self.shrink[index - 1](hidden)
                skips.append(hidden)
            for block in blocks:  # type: ignore[attr-defined]
                hidden = block(hidden, embedding)
                skips.append(hidden)
        for block in self.middle:
            hidden = block(hidden, embedding)
        for index, blocks in enumerate(self.up):
            for block in blocks:  # type: ignore[attr-defined]
                hidden = block(torch.cat([hidden, skips.pop()], dim=1), embedding)
            if index < len(self.grow):
                hidden = self.grow[index](functional.interpolate(hidden, scale_factor=2.0))
        output: Images = self.leave(hidden)
        return output
