"""Generated folders as one set of images to measure: of one model, learnt from one set of images, or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from diffusion_lab.evaluation.digits import DigitJudge
from diffusion_lab.generation.arrays import ARRAYS, stored_count, stored_pixels
from diffusion_lab.generation.folder import UNFINISHED
from diffusion_lab.generation.manifest import read_lines
from diffusion_lab.generation.order import MANIFEST, PNG_KEY
from diffusion_lab.pictures import pixels_of
from diffusion_lab.shapes import Labels, Pixels

IDENTITY = ("checkpoint_sha256", "config_hash", "data_fingerprint")
"""What all images that are measured together must have in common, by its name in the manifest."""

DIGIT_SHAPE = (1, 8, 8)


@dataclass(frozen=True)
class GeneratedImages:
    """Images ``(N, C, H, W)`` of one identity; ``labels`` ``(N,)`` are those asked for, None for unlabelled ones."""

    pixels: Pixels
    labels: Labels | None
    identity: dict[str, str | None]
    folders: tuple[Path, ...]


def read_generated(folders: Sequence[Path]) -> GeneratedImages:
    """Read finished generations from their PNGs, or ``samples.npz`` where there are none.

    Raises:
        FileNotFoundError: A folder has no manifest, or no images beside it.
        ValueError: A folder is unfinished or damaged, or its images are of another model or other data than the rest.
    """
    identity: dict[str, str | None] = {}
    seen_in = Path()
    images: list[Pixels] = []
    labels: list[int | None] = []
    for folder in folders:
        lines = _lines(folder)
        for index, line in enumerate(lines):
            mine = {name: line.get(name) for name in IDENTITY}
            here = folder / MANIFEST
            if not identity:
                identity, seen_in = mine, here
            _refuse_mixture(identity, seen_in, mine, here, index)
            labels.append(line.get("label"))
        images.extend(_images(folder, lines))
    if len({image.shape for image in images}) > 1:
        raise ValueError(f"images must all have one size, got {sorted({tuple(image.shape) for image in images})}")
    told = [label for label in labels if label is not None]
    if told and len(told) < len(labels):
        raise ValueError("images must all have a label or none: these folders mix both")
    return GeneratedImages(torch.stack(images), torch.tensor(told) if told else None, identity, tuple(folders))


def measure_digits(generated: GeneratedImages) -> dict[str, Any]:
    """What the judge of digits says of generated ones, with what they came from.

    Raises:
        ValueError: They are no digits of 8×8 pixels.
    """
    shape = tuple(generated.pixels.shape[1:])
    if shape != DIGIT_SHAPE:
        raise ValueError(f"the judge knows digits of (channels, height, width) {DIGIT_SHAPE}, got images of {shape}")
    judge = DigitJudge()
    agreement = None if generated.labels is None else judge.label_agreement(generated.pixels, generated.labels)
    return {
        "images": len(generated.pixels),
        "folders": [str(folder) for folder in generated.folders],
        "identity": generated.identity,
        "real_accuracy": judge.real_accuracy,
        "label_agreement": agreement,
        "pixel_fd_ratio": judge.pixel_fd_ratio(generated.pixels),
    }


def _lines(folder: Path) -> list[dict[str, Any]]:
    if (folder / UNFINISHED).exists():
        raise ValueError(f"{folder} is an unfinished generation: let the command that began it finish it first")
    if not (folder / MANIFEST).is_file():
        raise FileNotFoundError(f"{folder} holds no generated images: there is no {MANIFEST} in it")
    lines = []
    for number, line in enumerate(read_lines(folder), start=1):
        if line is None:
            raise ValueError(f"{folder / MANIFEST} is damaged in line {number}: the command that made it mends it")
        lines.append(line)
    if not lines:
        raise FileNotFoundError(f"{folder} holds no generated images: its {MANIFEST} is empty")
    return lines


def _refuse_mixture(
    identity: dict[str, str | None], seen_in: Path, mine: dict[str, str | None], here: Path, index: int
) -> None:
    for name in IDENTITY:
        if mine[name] != identity[name]:
            raise ValueError(
                f"results of different {name} must not be mixed: {identity[name]} in {seen_in}, {mine[name]} in "
                f"{here} (image {index}); measure them apart"
            )


def _images(folder: Path, lines: Sequence[dict[str, Any]]) -> Iterator[Pixels]:
    if all(line.get("file") for line in lines):
        yield from (_picture(folder, line) for line in lines)
    elif stored_count(folder / ARRAYS) == len(lines):
        yield from stored_pixels(folder / ARRAYS)
    else:
        raise FileNotFoundError(
            f"{folder} does not hold its {len(lines)} images, neither as PNG nor in {ARRAYS}: make them with "
            "generation.output.save_individual=true or save_npz=true"
        )


def _picture(folder: Path, line: dict[str, Any]) -> Pixels:
    """One PNG, which must be the one of its line: a file copied from elsewhere would be measured under a wrong name."""
    file = folder / Path(str(line["file"])).name
    try:
        with Image.open(file, formats=["PNG"]) as image:
            told, pixels = json.loads(image.info.get(PNG_KEY, "null")), pixels_of(image)
    except FileNotFoundError:
        raise FileNotFoundError(f"{file} is not there, though {MANIFEST} names it") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{file} is damaged: {error}") from error
    for name in IDENTITY:
        if not isinstance(told, dict) or told.get(name) != line.get(name):
            theirs = told.get(name) if isinstance(told, dict) else None
            raise ValueError(
                f"results of different {name} must not be mixed: {line.get(name)} in {folder / MANIFEST}, {theirs} in "
                f"{file}"
            )
    return pixels
