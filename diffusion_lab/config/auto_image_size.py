"""``auto`` in the model section: size and channels of the images in the training folder, and a suitable patch size.

It is replaced before validation, so that everything else, including a run's config.yaml, only has numbers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from statistics import median_low
from typing import Any

from diffusion_lab.config.patch_size import AUTO, choose_patch_size, is_auto, patch_size_for
from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.config.settings_reader import SettingsReader, Unreadable
from diffusion_lab.data.headers import Header, all_gray, sample_headers
from diffusion_lab.data.listing import list_images
from diffusion_lab.faults import Fault

SIZE, CHANNELS = "model.architecture.image_size", "model.architecture.in_channels"

LARGEST_SIZE = 64
"""In pixels; larger images take minutes per epoch without a GPU and must be chosen explicitly."""

COLOUR = 3


def measure_images(tree: dict[str, Any]) -> list[Fault]:
    """Replace ``auto`` in the model section of a training tree, in place.

    If the folder cannot be read, the largest size and three channels are used, so that the rest is still validated; the
    missing folder is a fault when the run starts.

    Returns:
        A fault for each ``auto`` with data that is not an image folder.
    """
    faults = _measure_folder(tree)
    if isinstance(tree.get("model"), dict):
        choose_patch_size(tree["model"].get("architecture"))
    return faults


def _measure_folder(tree: dict[str, Any]) -> list[Fault]:
    reader = SettingsReader(tree, TrainConfig)
    auto_keys = [key for key in (SIZE, CHANNELS) if _is_auto(reader, key)]
    if not auto_keys:
        return []
    with contextlib.suppress(Unreadable):
        kind = reader["data.type"]
        if kind != "image_folder":
            rule = f"auto requires data.type image_folder, got {kind}: set a number"
            return [Fault(key, rule, AUTO) for key in auto_keys]
    paths = _image_paths(reader)
    headers, architecture = sample_headers(paths), tree["model"]["architecture"]
    if SIZE in auto_keys:
        architecture["image_size"] = _size(headers, reader)
    if CHANNELS in auto_keys:
        architecture["in_channels"] = _channels(headers, paths)
    return []


def _is_auto(reader: SettingsReader, key: str) -> bool:
    with contextlib.suppress(Unreadable):
        return is_auto(reader[key])
    return False


def _image_paths(reader: SettingsReader) -> Sequence[Path]:
    with contextlib.suppress(Unreadable, OSError, TypeError):
        folder = Path(reader["data.paths.train"])
        if folder.is_dir():
            return list_images(folder).images
    return ()


def _size(headers: Sequence[Header], reader: SettingsReader) -> int:
    """Return the median of the short sides, rounded down to a size that the stages can halve."""
    side = median_low(min(header.width, header.height) for header in headers) if headers else LARGEST_SIZE
    side = min(side, LARGEST_SIZE)
    least = _least_size(reader, side)
    return max(least, side // least * least)


def _least_size(reader: SettingsReader, side: int) -> int:
    """Return the smallest size that the stages of the network can halve; all valid sizes are its multiples."""
    with contextlib.suppress(Unreadable, TypeError):
        patch, stages = reader["model.architecture.patch_size"], [1]
        if reader["model.architecture.type"] == "unet":
            stages = reader["model.architecture.channel_multipliers"]
        least: int = (patch_size_for(side) if is_auto(patch) else patch) * 2 ** (len(stages) - 1)
        return min(max(least, 1), LARGEST_SIZE)
    return 1


def _channels(headers: Sequence[Header], paths: Sequence[Path]) -> int:
    """Return 1 if all images are gray; the few that have colour may not be among those sampled in ``headers``."""
    return 1 if headers and all(header.gray for header in headers) and all_gray(paths) else COLOUR
