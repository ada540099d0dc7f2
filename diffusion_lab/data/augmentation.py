"""Random changes to the images of a training batch, made for the whole batch at once on its device."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion_lab.shapes import Images, Pixels, from_pixels

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in gray (ITU-R BT.601); their sum is 1."""


@dataclass(frozen=True)
class Augmentation:
    """Flips, turns and recolours each image on its own; called with a batch and a generator.

    The batch is images in [-1, 1], or pixels of 8 bits: mirrored, they are still pixels, at a quarter of the memory to
    move; to be turned or recoloured they become images.

    Args:
        horizontal_flip: mirror every second image on average.
        rotation_degrees: turn by an angle drawn evenly from ± this (0 to 180); the border is repeated
            into what comes free.
        jitter_strength: brightness, contrast and saturation each times a factor drawn evenly from 1 ± this
            (0 to 1). Saturation needs colour; alpha is left as it is.
    """

    horizontal_flip: bool = False
    rotation_degrees: float = 0.0
    jitter_strength: float = 0.0

    def __call__(self, images: Images | Pixels, generator: torch.Generator) -> Images | Pixels:
        """Changed images (N, C, H, W); ``generator`` must live on the device of ``images``."""
        mirrored = _every_second(images, generator) if self.horizontal_flip else None
        if mirrored is not None and not self.rotation_degrees:
            images = _mirror(images, mirrored)
        if not (self.rotation_degrees or self.jitter_strength):
            return images
        images = images.clone() if images.is_floating_point() else from_pixels(images)
        if self.rotation_degrees:  # which mirrors on the way, at no cost
            images = rotate(images, self.rotation_degrees, generator, mirrored)
        return _jitter_in_place(images, self.jitter_strength, generator) if self.jitter_strength else images


def flip(images: Images | Pixels, generator: torch.Generator) -> Images | Pixels:
    """Mirror left and right, each image with probability 1/2."""
    return _mirror(images, _every_second(images, generator))


def _every_second(images: Images | Pixels, generator: torch.Generator) -> Tensor:
    return _uniform(images, generator, 0, 1) < 0.5


def _mirror(images: Images | Pixels, mirrored: Tensor) -> Images | Pixels:
    # picking whole images out of both kinds is several times faster on a CPU than choosing pixel by pixel
    both = torch.cat([images, images.flip(-1)])
    return both.index_select(0, torch.arange(len(images), device=images.device) + len(images) * mirrored)


def rotate(images: Images, degrees: float, generator: torch.Generator, mirrored: Tensor | None = None) -> Images:
    """Turn each image about its centre by an angle drawn from ±``degrees``; the ``mirrored`` ones are so before."""
    largest = math.radians(degrees)
    angle = _uniform(images, generator, -largest, largest).to(images.dtype).view(-1, 1, 1)
    side = 1.0 if mirrored is None else 1 - 2 * mirrored.to(images.dtype).view(-1, 1, 1)
    grid = _turned_grid(angle, side, *images.shape[-2:])
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _turned_grid(angle: Tensor, side: Tensor | float, height: int, width: int) -> Tensor:
    """Where each pixel comes from, (N, H, W, 2) as x and y; ``affine_grid`` gives the same from a matrix, much slower.

    Both axes are measured in [-1, 1], so a picture that is not square needs its aspect put back. ``side`` is -1 where
    left and right change places. As complex numbers x + iy, so that one addition for each pixel gives both.
    """
    cos, sin, aspect = angle.cos(), angle.sin(), width / height
    x, y = _centres(width, angle.device), _centres(height, angle.device).view(-1, 1)
    by_column = torch.complex(x * (side * cos), x * (aspect * sin))  # (N, 1, W)
    by_row = torch.complex(y * (-side / aspect * sin), y * cos)  # (N, H, 1)
    return torch.view_as_real(by_column + by_row)


@cache
def _centres(length: int, device: torch.device) -> Tensor:
    """Of the pixels along an axis, in [-1, 1]."""
    return ((torch.arange(length) * 2 + 1) / length - 1).to(device)


def jitter(images: Images, strength: float, generator: torch.Generator) -> Images:
    """Scale brightness, contrast and (of colour images) saturation, clipped to [-1, 1] after each."""
    return _jitter_in_place(images.clone(), strength, generator)


def _jitter_in_place(images: Images, strength: float, generator: torch.Generator) -> Images:
    colours = 1 if images.shape[1] < 3 else 3
    light = images[:, :colours]  # without alpha

    def factor() -> Tensor:
        return _uniform(images, generator, 1 - strength, 1 + strength).view(-1, 1, 1, 1).to(images.dtype)

    # Moving memory is what takes the time, so all is done in place and in few passes. Brightness is measured from
    # black, at -1; the others are distances, which need no other range than [-1, 1].
    brightness = factor()
    light.mul_(brightness).add_(brightness - 1).clamp_(-1, 1)
    mean, contrast = _gray(light.mean((2, 3), keepdim=True)), factor()
    light.mul_(contrast).add_(mean * (1 - contrast)).clamp_(-1, 1)
    if colours == 3:
        torch.lerp(_gray(light), light, factor(), out=light).clamp_(-1, 1)
    return images


def _gray(light: Tensor) -> Tensor:
    """(N, 1, H, W), a tensor of its own."""
    if light.shape[1] == 1:
        return light.clone()
    red, green, blue = LUMA
    gray = light[:, :1] * red
    return gray.add_(light[:, 1:2], alpha=green).add_(light[:, 2:3], alpha=blue)


def _uniform(images: Images | Pixels, generator: torch.Generator, low: float, high: float) -> Tensor:
    """One number in [low, high) for each image."""
    return torch.empty(len(images), device=images.device).uniform_(low, high, generator=generator)
