"""``auto`` in the model section: size and channels of the pictures in the training folder, and patches to suit.

It is replaced before the settings are checked, so that all else, a run's config.yaml included, knows numbers only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from statistics import median_low
from typing import Any

from diffusion_lab.config.faults import Fault
from diffusion_lab.config.patch_size import AUTO, choose_patch_size, is_auto, patch_size_for
from diffusion_lab.config.reading import SettingsReader, Unreadable
from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.data.headers import Header, all_gray, sample_headers
from diffusion_lab.data.listing import list_images

SIZE, CHANNELS = "model.architecture.image_size", "model.architecture.in_channels"

LARGEST_SIZE = 64
"""Pixels; larger images take minutes for an epoch without a GPU, and are a choice to make."""

COLOUR = 3


def measure_images(tree: dict[str, Any]) -> list[Fault]:
    """Replace ``auto`` in the model section of a training tree, in place.

    Where the folder cannot be read, the largest size and three channels stand in, so that all else is checked; that
    the folder is missing is a fault that a run has when it starts.

    Returns:
        A fault for each ``auto`` whose images are not those of a folder.
    """
    faults = _measure_folder(tree)
    if isinstance(tree.get("model"), dict):
        choose_patch_size(tree["model"].get("architecture"))
    return faults


def _measure_folder(tree: dict[str, Any]) -> list[Fault]:
    reader = SettingsReader(tree, TrainConfig)
    wanted = [key for key in (SIZE, CHANNELS) if _is_auto(reader, key)]
    if not wanted:
        return []
    with contextlib.suppress(Unreadable):
        kind = reader["data.type"]
        if kind != "image_folder":
            rule = f"auto is for data.type image_folder, and this is {kind}: give a number"
            return [Fault(key, rule, AUTO) for key in wanted]
    paths = _pictures(reader)
    headers, architecture = sample_headers(paths), tree["model"]["architecture"]
    if SIZE in wanted:
        architecture["image_size"] = _size(headers, reader)
    if CHANNELS in wanted:
        architecture["in_channels"] = _channels(headers, paths)
    return []


def _is_auto(reader: SettingsReader, key: str) -> bool:
    with contextlib.suppress(Unreadable):
        return is_auto(reader[key])
    return False


def _pictures(reader: SettingsReader) -> Sequence[Path]:
    with contextlib.suppress(Unreadable, OSError, TypeError):
        folder = Path(reader["data.paths.train"])
        if folder.is_dir():
            return list_images(folder).images
    return ()


def _size(headers: Sequence[Header], reader: SettingsReader) -> int:
    """Median of the short sides, as far as the stages can halve it."""
    side = median_low(min(header.width, header.height) for header in headers) if headers else LARGEST_SIZE
    side = min(side, LARGEST_SIZE)
    least = _least_size(reader, side)
    return max(least, side // least * least)


def _least_size(reader: SettingsReader, side: int) -> int:
    """The smallest size that the stages of the network can halve, of which all others are multiples."""
    with contextlib.suppress(Unreadable, TypeError):
        patch, stages = reader["model.architecture.patch_size"], reader["model.architecture.channel_multipliers"]
        least: int = (patch_size_for(side) if is_auto(patch) else patch) * 2 ** (len(stages) - 1)
        return min(max(least, 1), LARGEST_SIZE)
    return 1


def _channels(headers: Sequence[Header], paths: Sequence[Path]) -> int:
    """One where all pictures are gray; a few that have colour may not be among those whose heads were read."""
    return 1 if headers and all(header.gray for header in headers) and all_gray(paths) else COLOUR
