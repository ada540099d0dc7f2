"""The array types of the whole project, and how a number per image meets a batch of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

Images = Tensor
"""Images ``(N, C, H, W)``, floating point, pixel values in [-1, 1] where they are clean."""

Pixels = Tensor
"""Images as stored and loaded: ``(N, C, H, W)``, uint8, 0 to 255."""

Times = Tensor
"""Times ``(N,)`` in [0, 1]: 0 is the clean image, 1 the end of the noise process."""

Labels = Tensor
"""Class numbers ``(N,)``, int64, from 0."""


class Batch(NamedTuple):
    """What a data loader hands to one step of training or validation.

    ``seed`` follows from the run's seed and the batch's place in the data alone, and every random draw made
    with the batch (augmentation, times, noise, dropped labels, dropout) is seeded with it. So whoever
    continues at the right place in the data continues every other random sequence as well.

    ``numbers`` are those of the images in their data set, one for each, in validation: what is drawn for an image then
    follows from its number alone, whatever batch it is in. In training it is empty.

    ``skipped`` are images that could not be decoded when the batch was loaded, reported to the training process.
    """

    images: Images | Pixels
    labels: Labels | None
    seed: int
    skipped: Sequence[Any] = ()
    numbers: Sequence[int] = ()


def per_image(values: Tensor | float, images: Images) -> Tensor | float:
    """Shape one number per image ``(N,)`` so that it broadcasts over ``(N, C, H, W)``; a plain number stays one.

    The result has the type and the device of ``images``: arithmetic in float64 happens before, not after.
    """
    if isinstance(values, Tensor) and values.ndim == 1:
        return values.to(images).view(-1, *[1] * (images.ndim - 1))
    return values


def to_pixels(images: Images) -> Pixels:
    """Turn [-1, 1] into 0 to 255 by rounding, values outside clipped."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().byte()


def from_pixels(pixels: Pixels) -> Images:
    """Turn 0 to 255 into float32 in [-1, 1]."""
    return pixels.to(torch.float32, copy=True).div_(127.5).sub_(1)  # in place: a third of the memory to move
