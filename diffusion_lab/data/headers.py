"""Size and colour of the images in a folder, from the headers of the files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffusion_lab.data.formats import DEEP_MODES, open_image
from diffusion_lab.data.parallel import map_in_order
from diffusion_lab.files.reading import open_regular

GRAY_MODES = ("1", "L", *DEEP_MODES)

LOOKED_AT = 256
"""Number of images of a folder in a sample, spread evenly over their names."""


class Header(NamedTuple):
    """Header of an image file: width and height in pixels, and whether it is gray and opaque."""

    width: int
    height: int
    gray: bool


def read_header(path: Path) -> Header | None:
    """Read the header of an image; None if it cannot be read, which decoding reports."""
    try:
        with open_regular(path) as file, open_image(file, path.suffix) as image:
            return Header(*image.size, image.mode in GRAY_MODES and not image.has_transparency_data)
    except Exception:  # as in decoding: Pillow raises errors of nearly any kind for a damaged file
        return None


def sample_headers(paths: Sequence[Path], most: int = LOOKED_AT) -> list[Header]:
    """Read the headers of at most ``most`` images; unreadable ones are skipped."""
    indices = np.unique(np.linspace(0, len(paths) - 1, min(most, len(paths)), dtype=np.int64)).tolist()
    return [header for index in indices if (header := read_header(paths[index])) is not None]


def all_gray(paths: Sequence[Path]) -> bool:
    """Return whether no readable header has colour or transparency; stops at the first that has."""
    headers = map_in_order(lambda index: read_header(paths[index]), len(paths))
    return all(header is None or header.gray for header in headers)
