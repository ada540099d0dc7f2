"""Random changes to the images of a training batch, made for the whole batch at once on its device."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion_lab.seeds import derive_uniform
from diffusion_lab.shapes import Images, Pixels, from_pixels

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in gray (ITU-R BT.601); their sum is 1."""

Each = npt.NDArray[np.floating]
"""A number for each image, (N,). They are drawn and prepared on the CPU: the same on every device, and soon done."""


@dataclass(frozen=True)
class Augmentation:
    """Flips, turns and recolours each image on its own; called with a batch and its seed.

    The batch is images in [-1, 1], or pixels of 8 bits: mirrored, they are still pixels, at a quarter of the memory to
    move; to be turned or recoloured they become images. Each kind of change has draws of its own: which images are
    mirrored does not depend on whether they are turned as well.

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

    def __call__(self, images: Images | Pixels, seed: int) -> Images | Pixels:
        """Changed images (N, C, H, W), wherever they are; the same for the same ``seed``, on every device."""
        if not (self.horizontal_flip or self.rotation_degrees or self.jitter_strength):
            return images
        # named, so that noise and times drawn from the batch's seed do not repeat these numbers
        draws = derive_uniform((5, len(images)), "augmentation", seed)
        mirrored = (draws[0] < 0) & self.horizontal_flip
        if self.horizontal_flip and not self.rotation_degrees:
            images = mirror(images, mirrored)
        if self.jitter_strength:
            images = recolour(images, *(1 + self.jitter_strength * draws[2:]))
        if not self.rotation_degrees:
            return images
        images = images if images.is_floating_point() else from_pixels(images)
        return rotate(images, math.radians(self.rotation_degrees) * draws[1], mirrored)  # mirrors on the way


def mirror(images: Images | Pixels, mirrored: npt.NDArray[np.bool_]) -> Images | Pixels:
    """Change left and right of the ``mirrored`` images, (N,)."""
    # picking whole images out of both kinds is several times faster on a CPU than choosing pixel by pixel
    both = torch.cat([images, images.flip(-1)])
    chosen = np.arange(len(images)) + len(images) * mirrored
    return both.index_select(0, _sent(chosen, images.device))


def rotate(images: Images, angle: Each, mirrored: npt.NDArray[np.bool_]) -> Images:
    """Turn each image about its centre by its ``angle``, in radians; the ``mirrored`` ones are mirrored before."""
    grid = _turned_grid(angle, mirrored, images)
    return F.grid_sample(images, grid.to(images.dtype), padding_mode="border", align_corners=False)


def _turned_grid(angle: Each, mirrored: npt.NDArray[np.bool_], images: Images) -> Tensor:
    """Where each pixel comes from, (N, H, W, 2) as x and y; ``affine_grid`` gives the same from a matrix, much slower.

    As complex numbers x + iy: turning is a product, and each pixel's is the sum of its column's and its row's.
    """
    height, width = images.shape[2:]
    turned = np.multiply.outer(np.exp(1j * angle), _centres(height, width))
    turned.real *= np.where(mirrored, -height / width, height / width)[:, None]
    columns, rows = turned[:, None, :width], turned[:, width:, None]
    return torch.view_as_real(_sent(columns, images.device) + _sent(rows, images.device))


@cache
def _centres(height: int, width: int) -> npt.NDArray[np.complex64]:
    """Those of the pixels, first of a row, then of a column, (W + H,). Half of the height is 1."""
    x, y = ((np.arange(length) * 2 + 1) / length - 1 for length in (width, height))
    return np.concatenate([x * width / height, 1j * y]).astype(np.complex64)


def recolour(images: Images | Pixels, brightness: Each, contrast: Each, saturation: Each) -> Images:
    """Scale brightness, contrast and (of colour images) saturation, one after the other, and clip to [-1, 1].

    Each is a factor for each image: of the distance from black, from the mean gray of the image, from the gray of
    the pixel. Clipped at the end alone: what the first drives out of range, the next may bring back.
    """
    # All three are linear, so together they are one sum: a share of the pixel's colours, one of its gray, one of the
    # mean gray. Moving memory is what takes the time, and this is the fewest passes over it.
    light, unit = (images + 1, 1.0) if images.is_floating_point() else (images.float(), 1 / 127.5)
    brightness = brightness * unit
    scale = contrast * brightness
    mean = (brightness - scale) / math.prod(light.shape[2:])
    shares = np.array([scale * saturation, scale - scale * saturation, mean, -np.ones_like(scale)], np.float32)
    of_colours, of_gray, of_sum, black = _sent(shares[..., None, None, None], light.device).to(light.dtype).unbind()
    opaque = light if light.shape[1] in (1, 3) else light[:, :-1]
    gray = _gray(opaque)
    shift = torch.addcmul(black, gray.sum((2, 3), keepdim=True), of_sum)
    gray.mul_(of_gray).add_(shift)
    torch.addcmul(gray, opaque, of_colours, out=opaque).clamp_(-1, 1)
    if opaque is not light:
        light[:, -1].mul_(unit).sub_(1)
    return light


def _gray(opaque: Images) -> Images:
    """(N, 1, H, W), a tensor of its own."""
    if opaque.shape[1] == 1:
        return opaque.clone()
    red, green, blue = opaque.unbind(1)
    without_green = red.lerp(blue, LUMA[2] / (LUMA[0] + LUMA[2]))
    return without_green.lerp_(green, LUMA[1]).unsqueeze(1)


def _sent(numbers: npt.NDArray[Any], device: torch.device) -> Tensor:
    """The same numbers on a device, without waiting for what it still has to do."""
    return torch.from_numpy(numbers).to(device, non_blocking=device.type == "cuda")
