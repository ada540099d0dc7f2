"""Layout of an image folder: flat, or with one subfolder per class.

Two layouts look like classes but are not: the splits of a data set, ``train/`` and ``val/``, and a single folder that
holds the class folders. They are refused, with the path to use instead.
"""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import NamedTuple

from diffusion_lab.console.terminal import on_one_line
from diffusion_lab.data.formats import is_image_file
from diffusion_lab.data.listing import Listing, is_ignored, list_images
from diffusion_lab.data.skipped_images import DataWarning, OtherFiles

_PART = r"({})[-_ ]?(set|data|images?|imgs?|pics|split)?[-_ ]?\d*"
TRAINING_PART = re.compile(_PART.format("train|training"), re.IGNORECASE)
OTHER_PART = re.compile(_PART.format("val|valid|validation|test|testing|dev|eval|holdout"), re.IGNORECASE)
VALIDATION_PART = re.compile(_PART.format("val|valid|validation|dev|eval|holdout"), re.IGNORECASE)


class Layout(NamedTuple):
    """Content of an image folder.

    Attributes:
        classes: The images of each class by the name of its folder, sorted; empty for a flat folder.
        others: The files in and next to the class folders that are not images.
        inner: If a single subfolder holds the class folders: its path inside the folder and their names.
    """

    classes: dict[str, Listing]
    others: OtherFiles
    inner: tuple[str, tuple[str, ...]] | None = None


def read_layout(root: Path, key: str) -> Layout:
    """Scan the subfolders of an image folder.

    Args:
        root: The folder.
        key: Setting that it comes from, for messages.

    Raises:
        ValueError: It holds images next to class folders, or the splits of a data set instead of classes.
    """
    names = sorted(entry.name for entry in os.scandir(root) if not is_ignored(entry.name) and entry.is_dir())
    folders = {name: list_images(root, name) for name in names}
    classes = {name: each.images for name, each in folders.items() if each.images}
    others = OtherFiles().join(each.others for each in folders.values())
    if not classes:
        return Layout({}, others)
    loose = [entry.name for entry in os.scandir(root) if not is_ignored(entry.name) and entry.is_file()]
    images = sorted(name for name in loose if is_image_file(root / name))
    if images:
        raise ValueError(
            f"{key} must hold either class subfolders or images, not both: {str(root)!r} has the subfolder(s) "
            f"{on_one_line(', '.join(classes))} and {len(images)} image(s) such as {on_one_line(images[0])}"
        )
    for name in sorted(loose):
        others.add(name, os.path.splitext(name)[1].lower())
    inner = _inner_folders(classes)
    _refuse_parts(root, key, inner)
    if empty := [name for name in names if name not in classes]:
        empty_names = on_one_line(", ".join(empty))
        warnings.warn(f"{key}: no images in {empty_names}; not used as a class", DataWarning, stacklevel=4)
    return Layout(classes, others, inner if inner and inner[0] and len(inner[1]) > 1 else None)


def check_no_nested_classes(root: Path, key: str, layout: Layout) -> None:
    """Raise ValueError if a single subfolder holds the class folders: its name is not a class."""
    if layout.inner is not None:
        inner, names = layout.inner
        raise ValueError(
            f"{key} must be the folder that holds the class folders, got {str(root)!r}, which holds them in its only "
            f"subfolder: set {key} to {str(root / inner)!r} ({_some(names)})"
        )


def _inner_folders(classes: dict[str, Listing]) -> tuple[str, tuple[str, ...]]:
    """Descend to the first level with several subfolders or images; returns its path and the names of its folders."""
    if len(classes) > 1:
        return "", tuple(classes)
    images = next(iter(classes.values()))
    depth = 1
    while True:
        names: set[bytes] = set()
        for index in range(len(images)):
            *around, _ = images.name(index).split(b"/", depth + 1)
            if len(around) == depth:  # images are here
                return os.fsdecode(b"/".join(around[:-1])), (os.fsdecode(around[-1]),)
            names.add(around[depth])
        if len(names) > 1:
            return os.fsdecode(b"/".join(around[:depth])), tuple(sorted(map(os.fsdecode, names)))
        depth += 1


def _refuse_parts(root: Path, key: str, inner: tuple[str, tuple[str, ...]]) -> None:
    subfolder, names = inner
    training = [name for name in names if TRAINING_PART.fullmatch(name)]
    others = [name for name in names if OTHER_PART.fullmatch(name)]
    if len(names) < 2 or not training or len(training) + len(others) < len(names):
        return
    base = root / subfolder
    validation = [name for name in names if VALIDATION_PART.fullmatch(name)]
    if key == "data.paths.train":
        suggestion = f"set data.paths.train to {str(base / training[0])!r}"
        suggestion += f" and data.paths.val to {str(base / validation[0])!r}" if validation else ""
    else:
        suggestion = f"set {key} to {str(base / (validation or others)[0])!r}"
    raise ValueError(
        f"{key} must be a folder of images or of class folders, got {str(root)!r}, which holds the splits of a "
        f"data set ({_some(names)}), not classes: {suggestion}"
    )


def _some(names: tuple[str, ...], most: int = 6) -> str:
    listed = ", ".join(names[:most])
    return on_one_line(listed if len(names) <= most else f"{listed} and {len(names) - most} more")
