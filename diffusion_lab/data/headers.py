"""Size and colour of the pictures in a folder, from the heads of some of their files."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffusion_lab.data.formats import DEEP_MODES, open_picture
from diffusion_lab.data.listing import list_images
from diffusion_lab.safe_files import open_regular

GRAY_MODES = ("1", "L", *DEEP_MODES)

LOOKED_AT = 256
"""Pictures of a folder whose heads are read, spread evenly over their names."""


class Header(NamedTuple):
    """What the head of a picture's file says: width and height in pixels, and whether it is gray and opaque."""

    width: int
    height: int
    gray: bool


def read_header(path: Path) -> Header | None:
    """Read the head of a picture; None where it cannot be read, which decoding reports."""
    try:
        with open_regular(path) as file, open_picture(file, path.suffix) as image:
            return Header(*image.size, image.mode in GRAY_MODES and not image.has_transparency_data)
    except Exception:  # as of decoding: Pillow raises nearly everything for a damaged file
        return None


def read_headers(folder: Path, most: int = LOOKED_AT) -> list[Header]:
    """Read the heads of at most so many pictures in a folder and its subfolders; those that cannot be read are skipped.

    Raises:
        OSError: The folder cannot be read.
    """
    paths = list_images(folder).images
    places = np.unique(np.linspace(0, len(paths) - 1, min(most, len(paths)), dtype=np.int64)).tolist()
    return [header for place in places if (header := read_header(paths[place])) is not None]
