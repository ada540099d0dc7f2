"""``auto`` in the model section: size and channels of the images in the training folder, and a suitable patch size.

It is replaced before validation, so that everything else, including a run's config.yaml, only has numbers.
"""

from __future__ import annotations

from typing import Any

from diffusion_lab.data.auto_size import FolderHeaders, dividing_patch_size, suitable_patch_size, suitable_size
from diffusion_lab.faults import Fault

AUTO = "auto"
SIZE, CHANNELS = "model.architecture.image_size", "model.architecture.in_channels"


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
