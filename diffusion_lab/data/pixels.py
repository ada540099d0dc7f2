"""From any picture that Pillow opens to uint8 pixels of one size and number of channels."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageColor, ImageOps

from diffusion_lab.data.source import PixelArray

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Pillow's name for each number of channels: gray, colour, colour with alpha."""

DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
Colour = tuple[int, int, int]

FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "GIF", "TIFF")
"""What a picture may be, whatever its name says. Pillow would also try formats that start other programs (EPS)."""

MOST_PIXELS = 50_000_000
"""Of one picture when decoded: a few kilobytes can declare enough to fill any memory."""

LARGE = 16_000_000
"""Pixels from which on only one picture is decoded at a time."""

LONGEST = 8
"""Times its short side that is kept of a picture for random crops: a thin line could fill any memory when enlarged."""

_one_large_picture = threading.Lock()


def background_colour(name: str) -> Colour:
    """Red, green, blue of a colour name or ``#rrggbb``; ValueError for anything else."""
    try:
        return ImageColor.getrgb(name)[:3]
    except ValueError as error:
        raise ValueError(
            f"data.background must be a colour name or #rrggbb, got {name!r} (try white, black or #808080)"
        ) from error


@contextlib.contextmanager
def opened_image(file: Path | BinaryIO, size: int) -> Iterator[Image.Image]:
    """Read and fully decode the first frame, upright as its EXIF orientation says.

    A JPEG much larger than ``size`` is decoded at a fraction of its resolution, never below twice ``size``.
    Damaged files raise whatever Pillow raises: OSError, SyntaxError, ValueError and others. Of large pictures only
    one is in memory at a time, so what is to be done with the pixels is done within the context.

    Raises:
        ValueError: The picture declares more than MOST_PIXELS.
    """
    with Image.open(file, formats=_readable_formats()) as image:
        if min(image.size) >= 4 * size:  # there is a fraction to be had; asking for it takes a while
            image.draft(None, (2 * size, 2 * size))
        width, height = image.size
        if width * height > MOST_PIXELS:
            raise ValueError(f"a picture may have {MOST_PIXELS} pixels when decoded, this declares {width} × {height}")
        with _one_large_picture if width * height > LARGE else contextlib.nullcontext():
            image.load()
            ImageOps.exif_transpose(image, in_place=True)  # what is upright already would be copied otherwise
            yield image


@cache
def _readable_formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def to_channels(image: Image.Image, channels: int, background: Colour) -> Image.Image:
    """Convert any mode to gray (1), RGB (3) or RGBA (4).

    Alpha and transparent palette entries are laid onto ``background`` unless 4 channels keep them. Images of
    16 bits, of 32 bits and of floats are brought to 0 to 255 over their whole range.
    """
    if image.mode in DEEP_MODES:
        image = _to_eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if channels != 4:
            image = Image.alpha_composite(Image.new("RGBA", image.size, (*background, 255)), image)
    elif image.mode not in MODES.values():
        image = image.convert("L" if image.mode == "1" else "RGB")
    return image if image.mode == MODES[channels] else image.convert(MODES[channels])  # which would copy it, too


def resize_and_crop(image: Image.Image, size: int) -> PixelArray:
    """Bring the short side to ``size`` and cut the square in the middle: uint8 (C, size, size).

    The square is cut before resizing, which gives the same pixels and stays small for extreme aspects.
    """
    return _resized(image, size, 1)


def resize_to_strip(image: Image.Image, size: int) -> PixelArray:
    """Bring the short side to ``size`` and keep the long one, at most LONGEST times as long: its middle.

    What ``cut_square`` may cut from, so that a picture has to be decoded once and can be cut anew each time.
    """
    return _resized(image, size, LONGEST)


def _resized(image: Image.Image, size: int, longest: int) -> PixelArray:
    short = min(image.size)
    if short == size:
        return np.ascontiguousarray(_middle(_as_array(image), longest * short))
    if image.mode != "RGBA":
        return _resampled(_middle(_as_array(image), longest * short), size / short)
    # hidden colours of transparent pixels must not bleed: each pixel weighs as much as it is opaque
    weighed = _resampled(_middle(_as_array(image.convert("RGBa")), longest * short), size / short)
    height, width = weighed.shape[1:]
    return to_array(Image.frombytes("RGBa", (width, height), weighed.transpose(1, 2, 0).tobytes()).convert("RGBA"))


def _middle(pixels: PixelArray, longest: int) -> PixelArray:
    """Of (C, H, W) what is left where neither side may be longer; a view."""
    height, width = (min(side, longest) for side in pixels.shape[1:])
    top, left = (pixels.shape[1] - height) // 2, (pixels.shape[2] - width) // 2
    return pixels[:, top : top + height, left : left + width]


def _resampled(pixels: PixelArray, scale: float) -> PixelArray:
    """Bicubic, antialiased where it shrinks (arXiv:2104.11222 says why that matters), as Pillow's but for rounding.

    torch counts in whole numbers here, so that every processor gives the same pixels, in a quarter of Pillow's time.
    """
    size = [round(side * scale) for side in pixels.shape[1:]]
    images = torch.from_numpy(pixels)[None].contiguous(memory_format=torch.channels_last)
    resampled = F.interpolate(images, size, mode="bicubic", antialias=True)[0]
    array: PixelArray = resampled.contiguous().numpy()
    return array


def cut_square(pixels: PixelArray, size: int, rng: np.random.Generator | None) -> PixelArray:
    """A square of (C, H, W), whose short side is ``size``: the middle, or wherever ``rng`` says. It is a view."""
    top, left = ((s - size) // 2 if rng is None else int(rng.integers(s - size + 1)) for s in pixels.shape[1:])
    return pixels[:, top : top + size, left : left + size]


def to_array(image: Image.Image) -> PixelArray:
    """Pixels of an L, RGB or RGBA image as uint8 (C, H, W)."""
    return np.ascontiguousarray(_as_array(image))


def _as_array(image: Image.Image) -> PixelArray:
    """The same, not one after the other in memory."""
    return np.atleast_3d(np.array(image, dtype=np.uint8)).transpose(2, 0, 1)


def convert_arrays(images: PixelArray, image_size: int, channels: int, background: Colour) -> PixelArray:
    """Bring a whole set (N, H, W) or (N, H, W, 3 or 4) to uint8 (N, channels, image_size, image_size)."""
    if images.shape[1:] == (image_size, image_size) and channels == 1:
        return np.ascontiguousarray(images[:, None])
    if images.shape[1:] == (image_size, image_size, channels):
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    pictures = (to_channels(Image.fromarray(image), channels, background) for image in images)
    return np.stack([resize_and_crop(picture, image_size) for picture in pictures])


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Gray of 8 bits. The full scale is that of the format (16 bits, floats in [0, 1], values up to 255)
    where the values fit one of these, else the image's own smallest to largest value."""
    values = np.asarray(image, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("an image of floats must be finite, found NaN or infinity")
    low, high = 0.0, 1.0 if image.mode == "F" else 65535.0
    if values.min() < low or values.max() > high:
        low, high = (0.0, 255.0) if values.min() >= 0 and values.max() <= 255 else (values.min(), values.max())
    scaled = (values - low) / max(high - low, 1e-12) * 255
    return Image.fromarray(np.rint(scaled).astype(np.uint8))
