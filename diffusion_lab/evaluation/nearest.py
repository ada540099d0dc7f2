"""A picture of the samples that lie nearest to training images, each beside the image that it is nearest to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image, ImageDraw, ImageFont

from diffusion_lab.data.source import ImageSource
from diffusion_lab.files.writing import atomic_write
from diffusion_lab.image_grids import FONT_SIZE, INK, LEAST_CELL, PAPER, to_image

NEAREST = "nearest.png"
PAIRS_IN_A_ROW = 5
GAP = 2
MARGIN = 14
HEADING = "sample | nearest training image, distance in features"


class Pair(NamedTuple):
    """A sample and the training image nearest to it, by their numbers, and their distance."""

    sample: int
    train: int
    distance: float


def write_nearest(samples: ImageSource, train: ImageSource, pairs: Sequence[Pair], folder: Path) -> Path | None:
    """Write the picture into a folder; None where there are no pairs."""
    if not pairs:
        return None
    path = folder / NEAREST
    with atomic_write(path, durable=False) as partial:
        picture_of_pairs(samples, train, pairs).save(partial, "PNG")
    return path


def picture_of_pairs(samples: ImageSource, train: ImageSource, pairs: Sequence[Pair]) -> Image.Image:
    """Draw pairs of images, the nearest first, each with its distance below it.

    Args:
        samples: What ``Pair.sample`` counts.
        train: What ``Pair.train`` counts.
        pairs: At least one.
    """
    shown = [(_image(samples, pair.sample), _image(train, pair.train), pair.distance) for pair in pairs]
    cell = max(image.width for pair in shown for image in pair[:2])
    font = ImageFont.load_default(size=FONT_SIZE)
    columns = min(PAIRS_IN_A_ROW, len(shown))
    width, height = 2 * cell + GAP + MARGIN, cell + FONT_SIZE + MARGIN
    top = FONT_SIZE + MARGIN
    rows = -(-len(shown) // columns)
    sheet_width = max(columns * width + MARGIN, int(font.getlength(HEADING)) + 2 * MARGIN)
    sheet = Image.new("RGB", (sheet_width, top + rows * height + MARGIN // 2), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN // 2), HEADING, INK, font)
    for place, (sample, nearest, distance) in enumerate(shown):
        left, upper = MARGIN + place % columns * width, top + place // columns * height + MARGIN // 2
        for image, shift in ((sample, 0), (nearest, cell + GAP)):
            sheet.paste(image, (left + shift, upper), image if image.mode == "RGBA" else None)
        draw.text((left, upper + cell + 2), f"{distance:.3g}", INK, font)
    return sheet


def _image(source: ImageSource, index: int) -> Image.Image:
    """One image, enlarged by a whole number where it is small."""
    image = to_image(torch.from_numpy(source.load(index, None)))
    scale = max(-(-LEAST_CELL // max(image.size)), 1)
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
