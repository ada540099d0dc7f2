"""Random augmentation of training batches, computed for the whole batch at once on its device."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diffusion_lab.runtime.seeds import derive_uniform
from diffusion_lab.shapes import Images, Pixels, from_pixels

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in gray (ITU-R BT.601); their sum is 1."""

Each = npt.NDArray[np.floating]
"""One number per image, (N,), drawn and prepared on the CPU: fast, and the same on every device."""


@dataclass(frozen=True)
class Augmentation:
    """Flip, rotate and recolour each image independently; called with a batch and its seed.

    The batch is images in [-1, 1], or 8-bit pixels: flipping keeps pixels, at a quarter of the memory traffic; rotating
    and recolouring turn them into images. Each kind of change has its own random draws: which images are flipped does
    not depend on whether they are rotated as well.

    Args:
        horizontal_flip: flip each image with probability 1/2.
        rotation_degrees: maximum angle: rotate by an angle uniform in ± this (0 to 180); uncovered areas repeat the
            border.
        jitter_strength: maximum change: multiply brightness, contrast and saturation by a factor uniform in 1 ± this
            (0 to 1). Saturation needs colour; alpha is unchanged.
    """

    horizontal_flip: bool = False
    rotation_degrees: float = 0.0
    jitter_strength: float = 0.0

    def __call__(self, images: Images | Pixels, seed: int) -> Images | Pixels:
        """Return augmented images (N, C, H, W) on their device; the same ``seed`` gives the same on every device."""
        if not (self.horizontal_flip or self.rotation_degrees or self.jitter_strength):
            return images
        # a named stream, so that noise and times drawn from the batch's seed do not repeat these numbers
        draws = derive_uniform((5, len(images)), "augmentation", seed)
        mirrored = (draws[0] < 0) & self.horizontal_flip
        if self.horizontal_flip and not self.rotation_degrees:
            images = mirror(images, mirrored)
        if self.jitter_strength:
            images = recolour(images, *(1 + self.jitter_strength * draws[2:]))
        if not self.rotation_degrees:
            return images
        images = images if images.is_floating_point() else from_pixels(images)
        return rotate(images, math.radians(self.rotation_degrees) * draws[1], mirrored)  # mirrors as well


def mirror(images: Images | Pixels, mirrored: npt.NDArray[np.bool_]) -> Images | Pixels:
    """Flip the ``mirrored`` images, (N,), horizontally."""
    # selecting complete images from both versions is several times faster on a CPU than selecting pixel by pixel
    both = torch.cat([images, images.flip(-1)])
    chosen = np.arange(len(images)) + len(images) * mirrored
    return both.index_select(0, _to_device(chosen, images.device))


def rotate(images: Images, angle: Each, mirrored: npt.NDArray[np.bool_]) -> Images:
    """Rotate each image about its centre by its ``angle``, in radians; the ``mirrored`` ones are flipped first."""
    grid = _rotated_grid(angle, mirrored, images)
    return F.grid_sample(images, grid.to(images.dtype), padding_mode="border", align_corners=False)


def _rotated_grid(angle: Each, mirrored: npt.NDArray[np.bool_], images: Images) -> Tensor:
    """Return the source position of each pixel, (N, H, W, 2) as x and y; much faster than ``affine_grid``.

    Positions are complex numbers x + iy: a rotation is a product, and each pixel's position is the sum of those of its
    column and its row.
    """
    height, width = images.shape[2:]
    rotated = np.multiply.outer(np.exp(1j * angle), _centres(height, width))
    rotated.real *= np.where(mirrored, -height / width, height / width)[:, None]
    columns, rows = rotated[:, None, :width], rotated[:, width:, None]
    return torch.view_as_real(_to_device(columns, images.device) + _to_device(rows, images.device))


@cache
def _centres(height: int, width: int) -> npt.NDArray[np.complex64]:
    """Return the pixel centres of a row, then of a column, (W + H,). Half of the height is 1."""
    x, y = ((np.arange(length) * 2 + 1) / length - 1 for length in (width, height))
    return np.concatenate([x * width / height, 1j * y]).astype(np.complex64)


def recolour(images: Images | Pixels, brightness: Each, contrast: Each, saturation: Each) -> Images:
    """Scale brightness, contrast and (for colour images) saturation, one after the other, and clip to [-1, 1].

    Each is one factor per image: of the distance from black, from the mean gray of the image, from the gray of the
    pixel. Clipping happens only at the end: a value driven out of range by one step may be brought back by the next.
    """
    # All three are linear, so together they are one sum: a share of the pixel's colours, one of its gray, one of the
    # mean gray. Memory traffic dominates the time, and this takes the fewest passes.
    light, unit = (images + 1, 1.0) if images.is_floating_point() else (images.float(), 1 / 127.5)
    brightness = brightness * unit
    scale = contrast * brightness
    mean = (brightness - scale) / math.prod(light.shape[2:])
    shares = np.array([scale * saturation, scale - scale * saturation, mean, -np.ones_like(scale)], np.float32)
    shares_on_device = _to_device(shares[..., None, None, None], light.device)
    of_colours, of_gray, of_sum, black = shares_on_device.to(light.dtype).unbind()
    opaque = light if light.shape[1] in (1, 3) else light[:, :-1]
    gray = _gray(opaque)
    shift = torch.addcmul(black, gray.sum((2, 3), keepdim=True), of_sum)
    gray.mul_(of_gray).add_(shift)
    torch.addcmul(gray, opaque, of_colours, out=opaque).clamp_(-1, 1)
    if opaque is not light:
        light[:, -1].mul_(unit).sub_(1)
    return light


def _gray(opaque: Images) -> Float[Tensor, "n 1 h w"]:
    """Return the gray values (N, 1, H, W) in a new tensor."""
    if opaque.shape[1] == 1:
        return opaque.clone()
    red, green, blue = opaque.unbind(1)
    without_green = red.lerp(blue, LUMA[2] / (LUMA[0] + LUMA[2]))
    return without_green.lerp_(green, LUMA[1]).unsqueeze(1)


def _to_device(numbers: npt.NDArray[Any], device: torch.device) -> Tensor:
    """Copy numbers to a device without synchronizing."""
    return torch.from_numpy(numbers).to(device, non_blocking=device.type == "cuda")
