"""Conversion of any image that Pillow opens to uint8 pixels of a given size and number of channels."""

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

from diffusion_lab.data.formats import DEEP_MODES, open_image
from diffusion_lab.data.skipped_images import ImageTooLargeError
from diffusion_lab.data.source import PixelArray
from diffusion_lab.files.reading import open_regular

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Pillow's name for each number of channels: gray, colour, colour with alpha."""

Colour = tuple[int, int, int]

MAX_PIXELS = 50_000_000
"""Default limit on the pixels of an image: a few kilobytes can declare enough to fill any memory."""

BYTES_PER_PIXEL = 20
"""Maximum memory per pixel while an image is decoded, composited onto its background and resized."""

COEFFICIENT_BYTES_PER_PIXEL = 6
"""Memory per pixel of a JPEG with several scans (progressive or non-interleaved) before it is scaled down."""

ROWS_AT_ONCE = 64
"""Rows of an image of 16 or more bits that are converted at a time."""

MAX_ASPECT = 8
"""Maximum aspect ratio kept for random crops: a thin line could fill any memory when enlarged."""


def background_colour(name: str) -> Colour:
    """Return red, green, blue of a colour name or ``#rrggbb``. Raises ValueError for anything else."""
    try:
        return ImageColor.getrgb(name)[:3]
    except ValueError as error:
        raise ValueError(
            f"data.background must be a colour name or #rrggbb, got {name!r} (try white, black or #808080)"
        ) from error


class _PixelBudget:
    """Limit on images decoded by threads at the same time: at most MAX_PIXELS together.

    A larger image waits until it is the only one.
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


_pixel_budget = _PixelBudget()


@contextlib.contextmanager
def decode_image(
    file: Path | BinaryIO, size: int, max_pixels: int = MAX_PIXELS, suffix: str = ""
) -> Iterator[Image.Image]:
    """Read and fully decode the first frame, rotated upright by its EXIF orientation.

    A JPEG much larger than ``size`` is decoded at a fraction of its resolution, never below twice ``size``, and counts
    with the pixels of that fraction. Damaged files raise whatever Pillow raises: OSError, SyntaxError, ValueError and
    others. The number of large images in memory is limited across threads, so process the pixels inside the context.

    Args:
        file: The image.
        size: Side of the output square.
        max_pixels: Limit on the pixels.
        suffix: Suffix of the file's name, as in ``open_image``.

    Raises:
        ImageTooLargeError: The image declares more than ``max_pixels``; nothing was decoded.
    """
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(open_regular(file)) if isinstance(file, Path) else file
        image = stack.enter_context(open_image(stream, suffix))
        declared = image.size
        if min(declared) >= 4 * size:  # a fraction is available; requesting it takes time
            image.draft(None, (2 * size, 2 * size))
        pixels = _pixels_to_hold(image, declared)
        if pixels > max_pixels:
            width, height = declared
            raise ImageTooLargeError(f"{width} × {height}, which takes a data.max_pixels of {pixels}")
        with _pixel_budget.taking(pixels):
            transparent = _transparent_colour(image)
            image.load()
            if transparent is not None:
                image.info["transparency"] = transparent
            _turn_upright(image)
            yield image


def _turn_upright(image: Image.Image) -> None:
    try:
        ImageOps.exif_transpose(image, in_place=True)  # otherwise upright images would be copied
    except Exception as error:  # damaged EXIF data raise errors of nearly any kind, and the pixels are valid
        warnings.warn(f"unreadable EXIF data ({error}): the image is used as stored", UserWarning, stacklevel=2)


def _pixels_to_hold(image: Image.Image, declared: tuple[int, int]) -> int:
    """Return the memory for decoding in pixels: those of the output, or for some JPEGs those before scaling down."""
    pixels = image.size[0] * image.size[1]
    if image.size == declared:
        return pixels
    declared_pixels = declared[0] * declared[1]
    share = COEFFICIENT_BYTES_PER_PIXEL / BYTES_PER_PIXEL if _keeps_coefficients(image) else 1 / 64
    return max(pixels, round(declared_pixels * share))


def _keeps_coefficients(image: Image.Image) -> bool:
    """Return whether a JPEG has several scans, so that decoding keeps all of it at full resolution."""
    if "progressive" in image.info:
        return True
    stream: Any = getattr(image, "fp", None)
    position = stream.tell()  # after the header of the first scan, which ends in two bytes per component and 3 more
    stream.seek(position - 2 * len(image.getbands()) - 4)
    is_interleaved = stream.read(1)[:1] == bytes([len(image.getbands())])
    stream.seek(position)
    return not is_interleaved


def _transparent_colour(image: Image.Image) -> int | tuple[int, ...] | None:
    """Return the transparent colour of a PNG in the bit depth that Pillow decodes to; None if that is the file's.

    Pillow converts gray of 2 and 4 bits to 8, and colours of 16 bits to 8, but does not convert this colour.
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

    Alpha and transparent palette entries are composited onto ``background`` unless 4 channels keep them. Images of
    16 bits, 32 bits and floats are scaled to 0 to 255 over their full range.
    """
    if image.mode in DEEP_MODES:
        image = _to_eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if channels != 4:
            image = Image.alpha_composite(Image.new("RGBA", image.size, (*background, 255)), image)
    elif image.mode not in MODES.values():
        image = image.convert("L" if image.mode == "1" else "RGB")
    return image if image.mode == MODES[channels] else image.convert(MODES[channels])  # convert would copy it


def resize_and_crop(image: Image.Image, size: int) -> PixelArray:
    """Resize the short side to ``size`` and crop the central square: uint8 (C, size, size).

    Cropping happens before resizing, which gives the same pixels and needs little memory for extreme aspect ratios.
    """
    return _resized(image, size, 1)


def resize_to_strip(image: Image.Image, size: int) -> PixelArray:
    """Resize the short side to ``size`` and keep the centre of the long one, at most MAX_ASPECT times as long.

    ``cut_square`` crops from the result, so that an image is decoded once and cropped differently each time.
    """
    return _resized(image, size, MAX_ASPECT)


def _resized(image: Image.Image, size: int, longest: int) -> PixelArray:
    short = min(image.size)
    if short == size:
        return np.ascontiguousarray(_middle(_as_array(image), longest * short))
    if image.mode != "RGBA":
        return _resampled(_middle(_as_array(image), longest * short), size / short)
    # hidden colours of transparent pixels must not bleed: each pixel is weighted by its opacity
    weighed = _resampled(_middle(_as_array(image.convert("RGBa")), longest * short), size / short)
    height, width = weighed.shape[1:]
    return to_array(Image.frombytes("RGBa", (width, height), weighed.transpose(1, 2, 0).tobytes()).convert("RGBA"))


def _middle(pixels: PixelArray, longest: int) -> PixelArray:
    """Crop (C, H, W) centrally so that neither side exceeds ``longest``; returns a view."""
    height, width = (min(side, longest) for side in pixels.shape[1:])
    top, left = (pixels.shape[1] - height) // 2, (pixels.shape[2] - width) // 2
    return pixels[:, top : top + height, left : left + width]


def _resampled(pixels: PixelArray, scale: float) -> PixelArray:
    """Resample bicubically with antialiasing (arXiv:2104.11222 shows why that matters), as Pillow does up to rounding.

    torch uses integer arithmetic here, so that every processor gives the same pixels, in a quarter of Pillow's time.
    """
    size = [round(side * scale) for side in pixels.shape[1:]]
    images = torch.from_numpy(pixels)[None].contiguous(memory_format=torch.channels_last)
    resampled = F.interpolate(images, size, mode="bicubic", antialias=True)[0]
    array: PixelArray = resampled.contiguous().numpy()
    return array


def cut_square(pixels: PixelArray, size: int, rng: np.random.Generator | None) -> PixelArray:
    """Crop a square from (C, H, W) with short side ``size``: the centre, or at random with ``rng``; returns a view."""
    top, left = ((s - size) // 2 if rng is None else int(rng.integers(s - size + 1)) for s in pixels.shape[1:])
    return pixels[:, top : top + size, left : left + size]


def to_array(image: Image.Image) -> PixelArray:
    """Return the pixels of an L, RGB or RGBA image as uint8 (C, H, W)."""
    return np.ascontiguousarray(_as_array(image))


def _as_array(image: Image.Image) -> PixelArray:
    """Return the same as a non-contiguous view."""
    return np.atleast_3d(np.array(image, dtype=np.uint8)).transpose(2, 0, 1)


def convert_arrays(images: PixelArray, image_size: int, channels: int, background: Colour) -> PixelArray:
    """Convert a data set (N, H, W) or (N, H, W, 3 or 4) to uint8 (N, channels, image_size, image_size)."""
    if images.shape[1:] == (image_size, image_size) and channels == 1:
        return np.ascontiguousarray(images[:, None])
    if images.shape[1:] == (image_size, image_size, channels):
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    converted = (to_channels(Image.fromarray(image), channels, background) for image in images)
    return np.stack([resize_and_crop(image, image_size) for image in converted])


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Convert to 8-bit gray, with alpha if one value is declared transparent. The full scale is that of the format (16
    bits, floats in [0, 1], values up to 255) if the values fit one of these, else the range of the image's values."""
    values = np.asarray(image)
    least, most = float(values.min()), float(values.max())
    if not np.isfinite((least, most)).all():
        raise ValueError("an image of floats must be finite, found NaN or infinity")
    low, high = 0.0, 1.0 if image.mode == "F" else 65535.0
    if least < low or most > high:
        low, high = (0.0, 255.0) if least >= 0 and most <= 255 else (least, most)
    gray = np.empty(values.shape, np.uint8)
    for top in range(0, len(values), ROWS_AT_ONCE):  # all at once would take eight times the memory
        rows = values[top : top + ROWS_AT_ONCE].astype(np.float64)
        gray[top : top + ROWS_AT_ONCE] = np.rint((rows - low) / max(high - low, 1e-12) * 255)
    transparent = image.info.get("transparency")
    if not isinstance(transparent, int):
        return Image.fromarray(gray)
    alpha = np.where(values == transparent, np.uint8(0), np.uint8(255))
    return Image.merge("LA", (Image.fromarray(gray), Image.fromarray(alpha)))
