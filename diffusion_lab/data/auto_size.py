"""Image size, channels and patch size that suit the images in a folder, where the settings say ``auto``.

Patches leave a network 16 to 32 positions per side. Most of the work of a U-Net is done in its first stage: patches of
2×2 pixels leave a quarter of it, and where training time is short, the larger number of steps gives better images
(docs/quality.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median_low

from diffusion_lab.data.headers import Header, all_gray, sample_headers
from diffusion_lab.data.listing import list_images

MAX_SIZE = 64
"""Pixels; larger images take minutes per epoch without a GPU and must be chosen explicitly."""

MIN_POSITIONS, MAX_POSITIONS = 16, 32
"""Images up to the first size have patches of one pixel; in larger ones the first stage has at most the second number
of positions per side."""

COLOUR = 3


class FolderHeaders:
    """Sizes and colours of the images in a folder; of none, if it cannot be read, the largest size and three channels.

    Args:
        folder: Path of the folder, or anything else that the settings give for one.
    """

    def __init__(self, folder: object) -> None:
        self._paths: Sequence[Path] = ()
        try:
            if isinstance(folder, str | Path) and Path(folder).is_dir():
                self._paths = list_images(Path(folder)).images
        except OSError:  # such as a name that is too long, which is reported when the run starts
            pass
        self._headers: list[Header] = sample_headers(self._paths)

    @property
    def side(self) -> int:
        """Median of the short sides in pixels, at most MAX_SIZE."""
        sides = (min(header.width, header.height) for header in self._headers)
        return min(median_low(sides), MAX_SIZE) if self._headers else MAX_SIZE

    @property
    def channels(self) -> int:
        """1 if all images are gray, else 3; the few that have colour may not be among those sampled."""
        sampled_are_gray = bool(self._headers) and all(header.gray for header in self._headers)
        return 1 if sampled_are_gray and all_gray(self._paths) else COLOUR


def suitable_size(side: int, patch_size: int, halvings: int) -> int:
    """Return the image size nearest below ``side`` that patches and the stages of a network divide, at least one.

    Args:
        side: Number of pixels per side.
        patch_size: Pixels per side of a patch.
        halvings: How often the stages halve the positions.
    """
    least = min(patch_size << halvings, MAX_SIZE)
    return max(least, side // least * least)


def suitable_patch_size(image_size: int) -> int:
    """Return the patch size that suits an image size, whether it divides it or not."""
    if image_size <= MIN_POSITIONS:
        return 1
    patch = 2
    while image_size > patch * MAX_POSITIONS:
        patch *= 2
    return patch


def dividing_patch_size(image_size: int, halvings: int) -> int:
    """Return the largest suitable patch size that divides an image size into what the stages can halve, at least 1."""
    patch = suitable_patch_size(image_size)
    while patch > 1 and image_size % (patch << halvings):
        patch //= 2
    return patch
