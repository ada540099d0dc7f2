"""Size and colour of the pictures in a folder, from the heads of their files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffusion_lab.data.formats import DEEP_MODES, open_picture
from diffusion_lab.data.parallel import in_order
from diffusion_lab.safe_files import open_regular

GRAY_MODES = ("1", "L", *DEEP_MODES)

LOOKED_AT = 256
"""Pictures of a folder that a sample takes, spread evenly over their names."""


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


def sample_headers(paths: Sequence[Path], most: int = LOOKED_AT) -> list[Header]:
    """Read the heads of at most so many pictures; those that cannot be read are skipped."""
    places = np.unique(np.linspace(0, len(paths) - 1, min(most, len(paths)), dtype=np.int64)).tolist()
    return [header for place in places if (header := read_header(paths[place])) is not None]


def all_gray(paths: Sequence[Path]) -> bool:
    """Whether no picture has colour or transparency, as far as their heads can be read; ends at the first that has."""
    headers = in_order(lambda index: read_header(paths[index]), len(paths))
    return all(header is None or header.gray for header in headers)
