"""Supported image files: all still formats that Pillow decodes by itself."""

from __future__ import annotations

import contextlib
import importlib
import os
import struct
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image, UnidentifiedImageError, features

from diffusion_lab.files.reading import open_regular

REFUSED = frozenset({"BLP", "BUFR", "CUR", "EPS", "FITS", "GRIB", "HDF5", "ICNS", "ICO", "IPTC", "MPEG", "WMF"})
"""Formats that are never opened: some start other programs (EPS), some are only recognised (MPEG), and some unpack
without bound before their size is known (FITS) or hold images of another size than declared (icons)."""

DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
"""Pillow's names of gray modes with more than 8 bits."""

FREQUENT = ("JPEG", "PNG", "WEBP")
"""Formats that are tried first."""

OPTIONAL = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}
"""Formats that Pillow knows in every build and decodes in most, with the name of the library in ``PIL.features``."""

HEIF_SUFFIXES = frozenset({".heic", ".heics", ".heif", ".heifs", ".hif"})
HEIF_PLUGIN = "pillow_heif"

MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a")
"""First bytes that identify a file without suffix as an image; for other formats the header is parsed."""

PREFIX = 16
"""Number of bytes that Pillow inspects to distinguish formats."""


@cache
def readable_formats() -> tuple[str, ...]:
    """Return Pillow's names of the supported formats, in the order in which they are tried."""
    Image.init()
    if find_spec(HEIF_PLUGIN) is not None:
        with contextlib.suppress(ImportError, OSError):  # a broken installation counts as none
            plugin: Any = importlib.import_module(HEIF_PLUGIN)
            plugin.register_heif_opener()
    missing = {name for name, library in OPTIONAL.items() if not features.check(library)}
    known = sorted(set(Image.ID) - REFUSED - missing)
    return tuple(sorted(known, key=lambda name: name not in FREQUENT))


@cache
def image_suffixes() -> frozenset[str]:
    """Return the suffixes of the supported formats, in lower case with their dot."""
    readable = set(readable_formats())
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in readable)


def is_image_file(path: str | Path) -> bool:
    """Return whether a file is an image, by its suffix in any case, or without suffix by its first bytes."""
    suffix = os.path.splitext(path)[1].lower()
    return suffix in image_suffixes() if suffix else _has_image_signature(Path(path))


def open_image(stream: BinaryIO, suffix: str = "") -> Image.Image:
    """Read the header of an image, as ``PIL.Image.open`` does, but without its size limit.

    Args:
        stream: The file, which must be seekable.
        suffix: Suffix of the file's name. Formats without a signature (TGA) are tried only for their own suffix, since
            their readers accept nearly anything.

    Raises:
        UnidentifiedImageError: The format is not supported.
        Exception: Any error that the reader of the format raises for a damaged header.
    """
    suffixes = Image.registered_extensions() if readable_formats() else {}
    stream.seek(0)
    prefix = stream.read(PREFIX)
    for name in readable_formats():
        factory, accept = Image.OPEN[name]
        accepted = accept(prefix) if accept else suffixes.get(suffix.lower()) == name
        if accepted and not isinstance(accepted, str):  # a string is the reason why this build of Pillow cannot read it
            stream.seek(0)
            with contextlib.suppress(SyntaxError, IndexError, TypeError, struct.error):
                return factory(stream, "")
    raise UnidentifiedImageError("its image format is not supported")


def install_hint(suffix: str) -> str | None:
    """Return what to install to read files with an unsupported suffix; None if nothing is known to help."""
    if suffix in HEIF_SUFFIXES:
        return "pip install pillow-heif"
    unsupported = Image.registered_extensions().get(suffix)
    if unsupported in OPTIONAL:
        return f"a build of Pillow with {unsupported}"
    return None


def _has_image_signature(path: Path) -> bool:
    with contextlib.suppress(Exception), open_regular(path) as stream:  # readers of formats raise nearly everything
        if stream.read(PREFIX).startswith(MAGIC):
            return True
        open_image(stream)
        return True
    return False
