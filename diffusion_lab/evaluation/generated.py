"""Generated folders as one set of images to measure: of one model, learnt from one set of images, or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diffusion_lab.evaluation.digits import DigitJudge
from diffusion_lab.generation.arrays import ARRAYS, stored_labels, stored_pixels
from diffusion_lab.generation.finished import IDENTITY, REMEDY, manifest_lines, read_picture, refuse_other_pixels
from diffusion_lab.generation.order import MANIFEST
from diffusion_lab.shapes import Labels, Pixels

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
        lines = manifest_lines(folder)
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
        "folders": [folder.resolve().name for folder in generated.folders],
        "identity": generated.identity,
        "real_accuracy": judge.real_accuracy,
        "label_agreement": agreement,
        "pixel_fd_ratio": judge.pixel_fd_ratio(generated.pixels),
    }


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
    """The images of the lines, each compared with what its line says."""
    if all(line.get("file") for line in lines):
        for line in lines:
            yield read_picture(folder, line)
        return
    stored = stored_pixels(folder / ARRAYS)
    for line in lines:
        pixels = next(stored, None)
        if pixels is None:
            raise FileNotFoundError(
                f"{folder} does not hold its {len(lines)} images, neither as PNG nor in {ARRAYS}: make them with "
                "generation.output.save_individual=true or save_npz=true"
            )
        refuse_other_pixels(folder / ARRAYS, line, pixels)
        yield pixels
    if next(stored, None) is not None:
        raise ValueError(f"{folder / ARRAYS} holds more images than the {len(lines)} lines of {MANIFEST}; {REMEDY}")
    labels = [label for label in (line.get("label") for line in lines) if label is not None]
    if stored_labels(folder / ARRAYS) != tuple(labels):
        raise ValueError(f"the labels (arr_1) in {folder / ARRAYS} are not those of {MANIFEST}; {REMEDY}")
