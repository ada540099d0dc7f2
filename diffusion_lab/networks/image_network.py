"""Base class of all networks: their interface, and the embedding of time, label and patches of pixels."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from diffusion_lab.networks.blocks import Embedding, Recomputable, TimeEmbedding
from diffusion_lab.shapes import Images, Labels


class ImageNetwork(nn.Module, ABC):
    """Network that maps images, times and labels to images of the same shape, to zero before training.

    Args:
        time_width: Number of sines and cosines in the time embedding.
        embedding_channels: Length of the embedding of time and label.
        num_classes: Number of classes, None for a network without labels.
        patch_size: Side of the square of pixels that becomes one position.
    """

    def __init__(self, time_width: int, embedding_channels: int, num_classes: int | None, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.embed_time = TimeEmbedding(time_width, embedding_channels)
        self.embed_label = None if num_classes is None else nn.Embedding(num_classes + 1, embedding_channels)

    def forward(self, images: Images, time: Float[Tensor, "#n"], label: Labels | None = None) -> Images:
        """Map images ``(N, C, H, W)`` to the same shape.

        Args:
            images: Images with height and width divisible by ``patch_size`` and by any further requirement of the
                network.
            time: Times in [0, 1], ``(N,)``, or ``(1,)`` for all images.
            label: Class numbers ``(N,)``, ``num_classes`` itself for "no label"; None without classes.
        """
        embedding = self.embed_time(time)
        if self.embed_label is not None:
            embedding = embedding + self.embed_label(label)
        patches = functional.pixel_unshuffle(images, self.patch_size).contiguous(memory_format=torch.channels_last)
        return functional.pixel_shuffle(self.map_patches(patches, embedding), self.patch_size)

    def recompute_activations(self) -> None:
        """Switch on activation checkpointing: recompute each block's activations in the backward pass."""
        for block in self.modules():
            if isinstance(block, Recomputable):
                block.recompute = True

    @abstractmethod
    def map_patches(self, patches: Images, embedding: Embedding) -> Images:
        """Map patches to the same shape.

        Args:
            patches: ``(N, C·patch_size², H/patch_size, W/patch_size)``, in channels-last memory.
            embedding: Embedding of time and label, ``(N, embedding_channels)``, or one row for all images.
        """
