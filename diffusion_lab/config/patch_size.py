"""``model.architecture.patch_size: auto``: patches that leave a network 16 to 32 positions a side.

Most of the work of a U-Net is done in its first stage. Patches of 2×2 pixels leave a quarter of it, and where training
time is short, the larger number of steps gives better images (docs/quality.md).
"""

from __future__ import annotations

from typing import Any

AUTO = "auto"

FEWEST_POSITIONS, MOST_POSITIONS = 16, 32
"""Of a side, in the first stage: images of up to so many pixels have patches of one, others leave at most so many."""


def is_auto(value: object) -> bool:
    """Return whether a setting is ``auto``, in small or capital letters."""
    return isinstance(value, str) and value.lower() == AUTO


def patch_size_for(image_size: int) -> int:
    """Return the patch size that suits an image size, whether it divides it or not."""
    if image_size <= FEWEST_POSITIONS:
        return 1
    patch = 2
    while image_size > patch * MOST_POSITIONS:
        patch *= 2
    return patch


def choose_patch_size(architecture: Any) -> None:
    """Replace ``patch_size: auto`` in the section ``model.architecture`` of a tree, in place.

    Where the patches that suit the image size do not divide it into what the stages can halve, the next smaller ones
    are taken. What else is wrong with the section is left to the checks of its keys, and the patch size is 1.
    """
    if not isinstance(architecture, dict) or not is_auto(architecture.get("patch_size")):
        return
    architecture["patch_size"] = 1
    size, multipliers = architecture.get("image_size"), architecture.get("channel_multipliers", [1])
    if type(size) is not int or size < 1 or not isinstance(multipliers, list | tuple):
        return
    patch, halvings = patch_size_for(size), len(multipliers) - 1
    while patch > 1 and size % (patch << max(halvings, 0)):
        patch //= 2
    architecture["patch_size"] = patch
