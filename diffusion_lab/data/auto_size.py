"""``auto`` in the model section: size and channels of the images in the training folder, and a suitable patch size.

It is replaced before validation, so that everything else, including a run's config.yaml, only has numbers.

Patches leave a network 16 to 32 positions per side. Most of the work of a U-Net is done in its first stage: patches of
2×2 pixels leave a quarter of it, and where training time is short, the larger number of steps gives better images
(docs/quality.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median_low
from typing import Any

from diffusion_lab.data.headers import Header, all_gray, sample_headers
from diffusion_lab.data.listing import list_images
from diffusion_lab.faults import Fault

AUTO = "auto"
SIZE, CHANNELS = "model.architecture.image_size", "model.architecture.in_channels"

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


def measure_images(tree: dict[str, Any]) -> list[Fault]:
    """Replace ``auto`` in the model section of a training tree, in place.

    If the folder cannot be read, the largest size and three channels are used, so that the rest is still validated; the
    missing folder is a fault when the run starts.

    Returns:
        A fault for each ``auto`` with data that is not an image folder.
    """
    architecture, data = _section(_section(tree, "model"), "architecture"), _section(tree, "data")
    auto_keys = [key for key in (SIZE, CHANNELS) if _is_auto(architecture.get(key.rpartition(".")[2]))]
    kind = data.get("type", "image_folder")
    if auto_keys and kind == "image_folder":
        images = FolderHeaders(_section(data, "paths").get("train"))
        if SIZE in auto_keys:
            patch = architecture.get("patch_size", 1)
            patch = suitable_patch_size(images.side) if _is_auto(patch) else patch if _is_positive(patch) else 1
            architecture["image_size"] = suitable_size(images.side, patch, _halvings(architecture) or 0)
        if CHANNELS in auto_keys:
            architecture["in_channels"] = images.channels
        auto_keys = []
    choose_patch_size(architecture)
    return [Fault(key, f"auto requires data.type image_folder, got {kind}: set a number", AUTO) for key in auto_keys]


def choose_patch_size(architecture: dict[str, Any]) -> None:
    """Replace ``patch_size: auto`` in the section ``model.architecture`` of a tree, in place.

    What else is wrong with the section is left to the checks of its keys, and the patch size is 1.
    """
    if _is_auto(architecture.get("patch_size")):
        size, halvings = architecture.get("image_size"), _halvings(architecture)
        known = halvings is not None and _is_positive(size)
        architecture["patch_size"] = dividing_patch_size(size, halvings) if known else 1  # type: ignore[arg-type]


def _section(tree: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a section of a tree; an empty one if there is none."""
    section = tree.get(name)
    return section if isinstance(section, dict) else {}


def _is_auto(value: object) -> bool:
    return isinstance(value, str) and value.lower() == AUTO


def _is_positive(value: object) -> bool:
    return type(value) is int and value >= 1


def _halvings(architecture: dict[str, Any]) -> int | None:
    """Return how often the stages of the network halve the positions; None if they are faulty."""
    multipliers = architecture.get("channel_multipliers", [1])
    return max(len(multipliers) - 1, 0) if isinstance(multipliers, list) else None
