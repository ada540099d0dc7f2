"""Image of the samples nearest to training images, each next to its nearest training image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image, ImageDraw, ImageFont

from diffusion_lab.data.source import ImageSource
from diffusion_lab.files.writing import atomic_write
from diffusion_lab.image_grids import FONT_SIZE, INK, MIN_CELL, PAPER, to_image

NEAREST = "nearest.png"
PAIRS_PER_ROW = 5
GAP = 2
MARGIN = 14
HEADING = "sample | nearest training image, distance in features"


class Pair(NamedTuple):
    """Sample and its nearest training image, by index, and their distance."""

    sample: int
    train: int
    distance: float


def write_nearest(samples: ImageSource, train: ImageSource, pairs: Sequence[Pair], folder: Path) -> Path | None:
    """Write the image ``nearest.png`` to a folder and return its path; None if there are no pairs."""
    if not pairs:
        return None
    path = folder / NEAREST
    with atomic_write(path, durable=False) as partial:
        draw_pairs(samples, train, pairs).save(partial, "PNG")
    return path


def draw_pairs(samples: ImageSource, train: ImageSource, pairs: Sequence[Pair]) -> Image.Image:
    """Draw pairs of images, the nearest first, each with its distance below it.

    Args:
        samples: Source of the samples, indexed by ``Pair.sample``.
        train: Source of the training images, indexed by ``Pair.train``.
        pairs: At least one pair.
    """
    images = [(_image(samples, pair.sample), _image(train, pair.train), pair.distance) for pair in pairs]
    cell = max(image.width for pair in images for image in pair[:2])
    font = ImageFont.load_default(size=FONT_SIZE)
    columns = min(PAIRS_PER_ROW, len(images))
    width, height = 2 * cell + GAP + MARGIN, cell + FONT_SIZE + MARGIN
    top = FONT_SIZE + MARGIN
    rows = -(-len(images) // columns)
    sheet_width = max(columns * width + MARGIN, int(font.getlength(HEADING)) + 2 * MARGIN)
    sheet = Image.new("RGB", (sheet_width, top + rows * height + MARGIN // 2), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN // 2), HEADING, INK, font)
    for index, (sample, nearest, distance) in enumerate(images):
        left, upper = MARGIN + index % columns * width, top + index // columns * height + MARGIN // 2
        for image, shift in ((sample, 0), (nearest, cell + GAP)):
            sheet.paste(image, (left + shift, upper), image if image.mode == "RGBA" else None)
        draw.text((left, upper + cell + 2), f"{distance:.3g}", INK, font)
    return sheet


def _image(source: ImageSource, index: int) -> Image.Image:
    """Return one image, enlarged by an integer factor if it is small."""
    image = to_image(torch.from_numpy(source.load(index, None)))
    scale = max(-(-MIN_CELL // max(image.size)), 1)
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
