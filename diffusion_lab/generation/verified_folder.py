"""Reading folders that ``sample.py`` finished: each image is compared with its manifest line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusion_lab.faults import shown
from diffusion_lab.generation.arrays import ARRAYS
from diffusion_lab.generation.images import read_png
from diffusion_lab.generation.manifest import is_index, read_lines
from diffusion_lab.generation.open_folder import UNFINISHED
from diffusion_lab.generation.request import DIGEST, MANIFEST, digest_of, file_name
from diffusion_lab.shapes import Pixels

IDENTITY = ("checkpoint_sha256", "config_hash", "data_fingerprint")
"""Manifest fields that all images evaluated together must share."""

REMEDY = "the command that made the folder repairs it when it is run again"


def is_generated(folder: Path) -> bool:
    """Return whether ``sample.py`` made a folder. Other programs also write files with the manifest's name."""
    if not (folder / MANIFEST).is_file():
        return False
    first = next(read_lines(folder), None)
    own = ((folder / name).exists() for name in (UNFINISHED, file_name(0), ARRAYS))
    return (first is not None and "index" in first) or any(own)


def manifest_lines(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of the manifest, each at the index of its image.

    Raises:
        FileNotFoundError: The folder has no manifest, or an empty one.
        ValueError: It is unfinished or damaged.
    """
    if (folder / UNFINISHED).exists():
        raise ValueError(f"{folder} is an unfinished generation: run the command that began it again")
    if not (folder / MANIFEST).is_file():
        raise FileNotFoundError(f"{folder} holds no generated images: there is no {MANIFEST} in it")
    lines = []
    for index, line in enumerate(read_lines(folder)):
        fault = "it is not a manifest line" if line is None else _find_fault(line, index)
        if line is None or fault:
            raise ValueError(f"{folder / MANIFEST} is damaged in line {index + 1}: {fault}; {REMEDY}")
        lines.append(line)
    if not lines:
        raise FileNotFoundError(f"{folder} holds no generated images: its {MANIFEST} is empty")
    return lines


def check_single_generation(folder: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Raise ValueError if the lines of a manifest are of different models or of models trained on different images."""
    first = lines[0]
    for index, line in enumerate(lines):
        for name in IDENTITY:
            if line.get(name) != first.get(name):
                raise ValueError(
                    f"results of different {name} must not be mixed: {first.get(name)} in the first line of "
                    f"{folder / MANIFEST}, {line.get(name)} in that of image {index}; measure them apart"
                )


def read_verified_image(folder: Path, line: dict[str, Any]) -> Pixels:
    """Return the pixels ``(C, H, W)`` of a PNG after comparing it with its manifest line.

    A file copied from elsewhere would otherwise be evaluated under a wrong name.

    Raises:
        FileNotFoundError: It is missing.
        ValueError: It is damaged, or not the image of its line.
    """
    file = folder / file_name(line["index"])
    try:
        pixels, recorded = read_png(file)
    except FileNotFoundError:
        raise FileNotFoundError(f"{file} is missing, though {MANIFEST} names it; {REMEDY}") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} is damaged: {error}; {REMEDY}") from error
    if not isinstance(recorded, dict):
        raise ValueError(f"{file} does not carry its line of {MANIFEST}; {REMEDY}")
    for name in IDENTITY:
        if recorded.get(name) != line.get(name):
            raise ValueError(
                f"results of different {name} must not be mixed: {line.get(name)} in {folder / MANIFEST}, "
                f"{recorded.get(name)} in {file}"
            )
    for name in {**line, **recorded}:
        if name != DIGEST and recorded.get(name) != line.get(name):
            raise ValueError(
                f"{file} is not the image of its line: its {name} is {shown(recorded.get(name))}, and "
                f"{shown(line.get(name))} in {MANIFEST}; {REMEDY}"
            )
    refuse_other_pixels(file, line, pixels)
    return pixels


def refuse_other_pixels(file: Path, line: dict[str, Any], pixels: Pixels) -> None:
    """Raise ValueError if the pixels ``(C, H, W)`` read from ``file`` are not those of a manifest line."""
    if digest_of(line, pixels) != line[DIGEST]:
        raise ValueError(
            f"image {line['index']} in {file} is not the one of its line in {MANIFEST}: the {DIGEST} of pixels and "
            f"line differs; {REMEDY}"
        )


def _find_fault(line: Mapping[str, Any], index: int) -> str | None:
    """Return what is wrong with a line at this index, as far as known without its image; None if nothing is."""
    label = line.get("label")
    if line.get("index") != index:
        return f"it is of image {shown(line.get('index'))}, not {index}"
    if label is not None and not is_index(label):
        return f"its label is {shown(label)}"
    if line.get("file") not in (None, file_name(index)):
        return f"its file is {shown(line.get('file'))}, not {file_name(index)}"
    if not isinstance(line.get(DIGEST), str):
        return f"it has no {DIGEST}, since an earlier version wrote it"
    return None
