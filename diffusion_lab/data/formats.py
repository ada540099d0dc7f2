"""Which files are pictures: all still formats that Pillow decodes by itself."""

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

from diffusion_lab.safe_files import open_regular

REFUSED = frozenset({"BLP", "BUFR", "CUR", "EPS", "FITS", "GRIB", "HDF5", "ICNS", "ICO", "IPTC", "MPEG", "WMF"})
"""Formats that are never opened: some start other programs (EPS), some are only recognised (MPEG), and some unpack
without bound before they say their size (FITS) or hold pictures of another size than they say (icons)."""

DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
"""Pillow's names of gray in more than 8 bits."""

FREQUENT = ("JPEG", "PNG", "WEBP")
"""Tried first."""

OPTIONAL = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}
"""Formats that Pillow knows in every build and decodes in most, with the name of the library in ``PIL.features``."""

HEIF_SUFFIXES = frozenset({".heic", ".heics", ".heif", ".heifs", ".hif"})
HEIF_PLUGIN = "pillow_heif"

MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a")
"""First bytes by which a file without a suffix is a picture; other formats are asked for their headers."""

PREFIX = 16
"""Bytes that Pillow looks at to tell formats apart."""


@cache
def readable_formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are read, in the order in which they are tried."""
    Image.init()
    if find_spec(HEIF_PLUGIN) is not None:
        with contextlib.suppress(ImportError, OSError):  # a broken installation is like none
            plugin: Any = importlib.import_module(HEIF_PLUGIN)
            plugin.register_heif_opener()
    missing = {name for name, library in OPTIONAL.items() if not features.check(library)}
    known = sorted(set(Image.ID) - REFUSED - missing)
    return tuple(sorted(known, key=lambda name: name not in FREQUENT))


@cache
def picture_suffixes() -> frozenset[str]:
    """The suffixes, in small letters with their dot, of the formats that are read."""
    readable = set(readable_formats())
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in readable)


def is_picture(path: str | Path) -> bool:
    """Whether a file is taken for a picture: by its suffix, in capitals or not; without one by its first bytes."""
    suffix = os.path.splitext(path)[1].lower()
    return suffix in picture_suffixes() if suffix else _looks_like_a_picture(Path(path))


def open_picture(stream: BinaryIO, suffix: str = "") -> Image.Image:
    """Read the header of a picture: what ``PIL.Image.open`` does, without its limit on the size.

    Args:
        stream: The file, which can be rewound.
        suffix: Of the file's name. Formats without a mark of their own (TGA) are tried only where it is theirs: their
            readers take nearly anything for a picture.

    Raises:
        UnidentifiedImageError: It is in no format that is read.
        Exception: Whatever the reader of the format raises for a damaged header.
    """
    suffixes = Image.registered_extensions() if readable_formats() else {}
    stream.seek(0)
    prefix = stream.read(PREFIX)
    for name in readable_formats():
        factory, accept = Image.OPEN[name]
        accepted = accept(prefix) if accept else suffixes.get(suffix.lower()) == name
        if accepted and not isinstance(accepted, str):  # text is the reason why this build of Pillow cannot read it
            stream.seek(0)
            with contextlib.suppress(SyntaxError, IndexError, TypeError, struct.error):
                return factory(stream, "")
    raise UnidentifiedImageError("it is in no picture format that can be read")


def how_to_read(suffix: str) -> str | None:
    """What has to be installed for files of a suffix that are not read; None where nothing is known to help."""
    if suffix in HEIF_SUFFIXES:
        return "pip install pillow-heif"
    unsupported = Image.registered_extensions().get(suffix)
    if unsupported in OPTIONAL:
        return f"a build of Pillow with {unsupported}"
    return None


def _looks_like_a_picture(path: Path) -> bool:
    with contextlib.suppress(Exception), open_regular(path) as stream:  # readers of formats raise nearly everything
        if stream.read(PREFIX).startswith(MAGIC):
            return True
        open_picture(stream)
        return True
    return False
