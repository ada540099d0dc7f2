"""Array types of the project, and conversions between images and pixels.

The types are jaxtyping annotations: element type and axes, of which those with the same name have the same size within
a call. A type checker reads them as ``torch.Tensor``; the tests check them wherever a function is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Integer, UInt8
from torch import Tensor

Images = Float[Tensor, "n c h w"]
"""Images ``(N, C, H, W)``, floating point; clean images have values in [-1, 1]."""

Pixels = UInt8[Tensor, "n c h w"]
"""Images as stored and loaded: ``(N, C, H, W)``, uint8, 0 to 255."""

ImagePixels = UInt8[Tensor, "c h w"]
"""One image as stored and loaded: ``(C, H, W)``, uint8, 0 to 255."""

PerImage = Float[Tensor, "n"]
"""One number per image ``(N,)``."""

PerStep = Float[Tensor, "steps"]
"""One number per step of a discrete noise process, from the least noisy."""

Scalar = Float[Tensor, ""]
"""A single number."""

Times = PerImage
"""Times ``(N,)`` in [0, 1]: 0 is the clean image, 1 the end of the noise process."""

Labels = Integer[Tensor, "n"]
"""Class numbers ``(N,)``, from 0."""


class Batch(NamedTuple):
    """Batch of a data loader for one step of training or validation.

    ``seed`` depends only on the run's seed and the batch's position in the data, and seeds every random draw made with
    the batch (augmentation, times, noise, dropped labels, dropout). So a run that resumes at the right position in the
    data also resumes every other random sequence.

    ``indices`` are those of the images in their data set, in validation: random draws for an image then depend only on
    its index, whatever batch it is in. In training it is empty.

    ``skipped`` are images that could not be decoded when the batch was loaded, reported to the training process.
    """

    images: Images | Pixels
    labels: Labels | None
    seed: int
    skipped: Sequence[Any] = ()
    indices: Sequence[int] = ()


def per_image(values: PerImage | float, images: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."] | float:
    """Reshape one number per image ``(N,)`` to broadcast over ``(N, C, H, W)``; a plain number is returned unchanged.

    The result has the dtype and device of ``images``: do arithmetic in float64 before, not after.
    """
    if isinstance(values, Tensor) and values.ndim == 1:
        return values.to(images).view(-1, *[1] * (images.ndim - 1))
    return values


def to_pixels(images: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """Convert images of any shape from [-1, 1] to 0 to 255 by rounding; values outside are clipped."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().byte()


def from_pixels(pixels: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Convert images of any shape from 0 to 255 to float32 in [-1, 1]."""
    return pixels.to(torch.float32, copy=True).div_(127.5).sub_(1)  # in place: a third of the memory traffic
