"""From any picture that Pillow opens to uint8 pixels of one size and number of channels."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageColor, ImageOps

from diffusion_lab.data.formats import DEEP_MODES, open_picture
from diffusion_lab.data.left_out import PictureTooLargeError
from diffusion_lab.data.source import PixelArray
from diffusion_lab.safe_files import open_regular

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Pillow's name for each number of channels: gray, colour, colour with alpha."""

Colour = tuple[int, int, int]

MAX_PIXELS = 50_000_000
"""Default limit on the pixels of one picture: a few kilobytes can declare enough to fill any memory."""

BYTES_A_PIXEL = 20
"""Memory that a picture takes at most while it is decoded, laid onto its background and resized."""

COEFFICIENT_BYTES_A_PIXEL = 6
"""Memory that a JPEG takes, before it is scaled down, where its colours or details come one after the other."""

ROWS_AT_ONCE = 64
"""Rows of an image of 16 or more bits that are converted at a time."""

LONGEST = 8
"""Times its short side that is kept of a picture for random crops: a thin line could fill any memory when enlarged."""


def background_colour(name: str) -> Colour:
    """Red, green, blue of a colour name or ``#rrggbb``; ValueError for anything else."""
    try:
        return ImageColor.getrgb(name)[:3]
    except ValueError as error:
        raise ValueError(
            f"data.background must be a colour name or #rrggbb, got {name!r} (try white, black or #808080)"
        ) from error


class _PixelsAtOnce:
    """Lets threads decode pictures side by side as long as they have no more than MAX_PIXELS together.

    A larger picture waits until it is alone.
    """

    def __init__(self) -> None:
        self._changed, self._pixels = threading.Condition(), 0

    @contextlib.contextmanager
    def taking(self, pixels: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._pixels or self._pixels + pixels <= MAX_PIXELS)
            self._pixels += pixels
        try:
            yield
        finally:
            with self._changed:
                self._pixels -= pixels
                self._changed.notify_all()


_at_once = _PixelsAtOnce()


@contextlib.contextmanager
def opened_image(
    file: Path | BinaryIO, size: int, max_pixels: int = MAX_PIXELS, suffix: str = ""
) -> Iterator[Image.Image]:
    """Read and fully decode the first frame, upright as its EXIF orientation says.

    A JPEG much larger than ``size`` is decoded at a fraction of its resolution, never below twice ``size``, and counts
    with the pixels of that fraction. Damaged files raise whatever Pillow raises: OSError, SyntaxError, ValueError and
    others. Of several threads only so many have large pictures in memory at a time, so what is to be done with the
    pixels is done within the context.

    Args:
        file: The picture.
        size: Side of the square that is wanted.
        max_pixels: Limit on the pixels.
        suffix: Of the file's name, as ``open_picture`` takes it.

    Raises:
        PictureTooLargeError: The picture declares more than ``max_pixels``; nothing was decoded.
    """
    with contextlib.ExitStack() as opened:
        stream = opened.enter_context(open_regular(file)) if isinstance(file, Path) else file
        image = opened.enter_context(open_picture(stream, suffix))
        declared = image.size
        if min(declared) >= 4 * size:  # there is a fraction to be had; asking for it takes a while
            image.draft(None, (2 * size, 2 * size))
        pixels = _pixels_to_hold(image, declared)
        if pixels > max_pixels:
            width, height = declared
            raise PictureTooLargeError(f"{width} × {height}, which takes a data.max_pixels of {pixels}")
        with _at_once.taking(pixels):
            transparent = _transparent_colour(image)
            image.load()
            if transparent is not None:
                image.info["transparency"] = transparent
            _turn_upright(image)
            yield image


def _turn_upright(image: Image.Image) -> None:
    try:
        ImageOps.exif_transpose(image, in_place=True)  # what is upright already would be copied otherwise
    except Exception as error:  # damaged EXIF data raise nearly everything, and the pixels are whole
        warnings.warn(f"EXIF data that cannot be read ({error}): taken as it is stored", UserWarning, stacklevel=2)


def _pixels_to_hold(image: Image.Image, declared: tuple[int, int]) -> int:
    """Pixels by the memory that decoding takes: those that come out, and for some JPEGs those before scaling down."""
    pixels = image.size[0] * image.size[1]
    if image.size == declared:
        return pixels
    whole = declared[0] * declared[1]
    share = COEFFICIENT_BYTES_A_PIXEL / BYTES_A_PIXEL if _keeps_coefficients(image) else 1 / 64
    return max(pixels, round(whole * share))


def _keeps_coefficients(image: Image.Image) -> bool:
    """Whether a JPEG comes in several passes, so that decoding keeps all of it at full resolution."""
    if "progressive" in image.info:
        return True
    stream: Any = getattr(image, "fp", None)
    place = stream.tell()  # behind the header of the first pass, which ends in two bytes for each of its colours and 3
    stream.seek(place - 2 * len(image.getbands()) - 4)
    passes_of_all = stream.read(1)[:1] == bytes([len(image.getbands())])
    stream.seek(place)
    return not passes_of_all


def _transparent_colour(image: Image.Image) -> int | tuple[int, ...] | None:
    """The colour that a PNG declares transparent, in the bits that Pillow decodes to; None where they are the file's.

    Pillow brings gray of 2 and 4 bits to 8, and colours of 16 bits to 8, but leaves this colour as it is.
    """
    declared = image.info.get("transparency")
    depth = str(getattr(image, "tile", [(None,) * 4])[0][3]) if image.format == "PNG" else ""
    if isinstance(declared, int) and depth in ("L;2", "L;4"):
        return declared * (85 if depth == "L;2" else 17)
    if isinstance(declared, tuple) and depth == "RGB;16B":
        return tuple(value >> 8 for value in declared)
    return None


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
    """Gray of 8 bits, with alpha where one value is declared transparent. The full scale is that of the format (16
    bits, floats in [0, 1], values up to 255) where the values fit one of these, else the image's own smallest to
    largest value."""
    values = np.asarray(image)
    least, most = float(values.min()), float(values.max())
    if not np.isfinite((least, most)).all():
        raise ValueError("an image of floats must be finite, found NaN or infinity")
    low, high = 0.0, 1.0 if image.mode == "F" else 65535.0
    if least < low or most > high:
        low, high = (0.0, 255.0) if least >= 0 and most <= 255 else (least, most)
    gray = np.empty(values.shape, np.uint8)
    for top in range(0, len(values), ROWS_AT_ONCE):  # as floats all at once they would take eight times as much
        rows = values[top : top + ROWS_AT_ONCE].astype(np.float64)
        gray[top : top + ROWS_AT_ONCE] = np.rint((rows - low) / max(high - low, 1e-12) * 255)
    transparent = image.info.get("transparency")
    if not isinstance(transparent, int):
        return Image.fromarray(gray)
    alpha = np.where(values == transparent, np.uint8(0), np.uint8(255))
    return Image.merge("LA", (Image.fromarray(gray), Image.fromarray(alpha)))
