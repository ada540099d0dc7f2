"""Generated folders as one set of images to measure: of one model, learnt from one set of images, or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diffusion_lab.config.faults import shown
from diffusion_lab.evaluation.digits import DigitJudge
from diffusion_lab.generation.arrays import ARRAYS, stored_labels, stored_pixels
from diffusion_lab.generation.folder import UNFINISHED
from diffusion_lab.generation.images import read_png
from diffusion_lab.generation.manifest import is_number, read_lines
from diffusion_lab.generation.order import DIGEST, MANIFEST, digest_of, file_name
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
        "folders": [folder.resolve().name for folder in generated.folders],
        "identity": generated.identity,
        "real_accuracy": judge.real_accuracy,
        "label_agreement": agreement,
        "pixel_fd_ratio": judge.pixel_fd_ratio(generated.pixels),
    }


def _lines(folder: Path) -> list[dict[str, Any]]:
    if (folder / UNFINISHED).exists():
        raise ValueError(f"{folder} is an unfinished generation: run the sample.py command that began it again")
    if not (folder / MANIFEST).is_file():
        raise FileNotFoundError(f"{folder} holds no generated images: there is no {MANIFEST} in it")
    lines = []
    for index, line in enumerate(read_lines(folder)):
        fault = "it is no line of a manifest" if line is None else _fault(line, index)
        if line is None or fault:
            raise ValueError(f"{folder / MANIFEST} is damaged in line {index + 1}: {fault}; {REMEDY}")
        lines.append(line)
    if not lines:
        raise FileNotFoundError(f"{folder} holds no generated images: its {MANIFEST} is empty")
    return lines


REMEDY = "the sample.py command that made the folder repairs it when it is run again"


def _fault(line: Mapping[str, Any], index: int) -> str | None:
    """What is wrong with a line at this place, as far as it can be said without its image."""
    label = line.get("label")
    if line.get("index") != index:
        return f"it is of image {shown(line.get('index'))}, not {index}"
    if label is not None and not is_number(label):
        return f"its label is {shown(label)}"
    if line.get("file") not in (None, file_name(index)):
        return f"its file is {shown(line.get('file'))}, not {file_name(index)}"
    if not isinstance(line.get(DIGEST), str):
        return f"it has no {DIGEST}, since an earlier version wrote it"
    return None


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
            yield _picture(folder, line)
        return
    stored = stored_pixels(folder / ARRAYS)
    for line in lines:
        pixels = next(stored, None)
        if pixels is None:
            raise FileNotFoundError(
                f"{folder} does not hold its {len(lines)} images, neither as PNG nor in {ARRAYS}: make them with "
                "generation.output.save_individual=true or save_npz=true"
            )
        _refuse_other_pixels(folder / ARRAYS, line, pixels)
        yield pixels
    if next(stored, None) is not None:
        raise ValueError(f"{folder / ARRAYS} holds more images than the {len(lines)} lines of {MANIFEST}; {REMEDY}")
    labels = [label for label in (line.get("label") for line in lines) if label is not None]
    if stored_labels(folder / ARRAYS) != tuple(labels):
        raise ValueError(f"the labels (arr_1) in {folder / ARRAYS} are not those of {MANIFEST}; {REMEDY}")


def _picture(folder: Path, line: dict[str, Any]) -> Pixels:
    """One PNG, which must be the one of its line: a file copied from elsewhere would be measured under a wrong name."""
    file = folder / file_name(line["index"])
    try:
        pixels, told = read_png(file)
    except FileNotFoundError:
        raise FileNotFoundError(f"{file} is missing, though {MANIFEST} names it; {REMEDY}") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} is damaged: {error}; {REMEDY}") from error
    if not isinstance(told, dict):
        raise ValueError(f"{file} does not carry its line of {MANIFEST}; {REMEDY}")
    for name in IDENTITY:
        if told.get(name) != line.get(name):
            raise ValueError(
                f"results of different {name} must not be mixed: {line.get(name)} in {folder / MANIFEST}, "
                f"{told.get(name)} in {file}"
            )
    for name in {**line, **told}:
        if name != DIGEST and told.get(name) != line.get(name):
            raise ValueError(
                f"{file} is not the image of its line: its {name} is {shown(told.get(name))}, and "
                f"{shown(line.get(name))} in {MANIFEST}; {REMEDY}"
            )
    _refuse_other_pixels(file, line, pixels)
    return pixels


def _refuse_other_pixels(file: Path, line: dict[str, Any], pixels: Pixels) -> None:
    if digest_of(line, pixels) != line[DIGEST]:
        raise ValueError(
            f"image {line['index']} in {file} is not the one of its line in {MANIFEST}: the {DIGEST} of pixels and "
            f"line differs; {REMEDY}"
        )
