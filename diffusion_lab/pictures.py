"""Pictures of many images: grids that a person can read, also where an image is only 8 pixels wide."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from diffusion_lab.shapes import Labels, Pixels

LEAST_CELL = 48
"""Images narrower than this many pixels are enlarged by a whole number, smoothly: a person reads them better so."""
GAP = 2
INK, PAPER = (20, 20, 20), (255, 255, 255)


def image_of(pixels: Pixels) -> Image.Image:
    """One image ``(C, H, W)``, uint8, with 1, 3 or 4 channels, as a PIL image."""
    array = pixels.permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def pixels_of(image: Image.Image) -> Pixels:
    """The pixels ``(C, H, W)``, uint8, of a PIL image that ``image_of`` made."""
    array = torch.from_numpy(np.array(image))
    return array[None] if array.ndim == 2 else array.permute(2, 0, 1)


def grid_of(pixels: Pixels, columns: int | None = None) -> Image.Image:
    """Images ``(N, C, H, W)`` row by row; a near-square grid where ``columns`` is None."""
    columns = columns or max(round(len(pixels) ** 0.5), 1)
    cells: list[int | None] = list(range(len(pixels)))
    cells += [None] * (-len(cells) % columns)
    return _draw(pixels, [cells[start : start + columns] for start in range(0, len(cells), columns)])


def grid_by_class(pixels: Pixels, labels: Sequence[int] | Labels, class_names: Sequence[str] = ()) -> Image.Image:
    """Images ``(N, C, H, W)`` with one row a class, the classes' names beside the rows."""
    rows: dict[int, list[int | None]] = {}
    for index, label in enumerate(labels):
        rows.setdefault(int(label), []).append(index)
    width = max(len(row) for row in rows.values())
    ordered = sorted(rows)
    names = [class_names[label] if label < len(class_names) else str(label) for label in ordered]
    return _draw(pixels, [rows[label] + [None] * (width - len(rows[label])) for label in ordered], names)


def _draw(pixels: Pixels, rows: list[list[int | None]], names: Sequence[str] = ()) -> Image.Image:
    height, width = pixels.shape[2:]
    scale = max(-(-LEAST_CELL // max(height, width)), 1)
    cell_width, cell_height = width * scale + GAP, height * scale + GAP
    font = ImageFont.load_default(size=13)
    margin = max((int(font.getlength(name)) + 10 for name in names), default=0)
    sheet = Image.new("RGB", (margin + len(rows[0]) * cell_width + GAP, len(rows) * cell_height + GAP), PAPER)
    for y, row in enumerate(rows):
        top = y * cell_height + GAP
        if names:
            ImageDraw.Draw(sheet).text((4, top + cell_height // 2), names[y], INK, font, anchor="lm")
        for x, index in enumerate(row):
            if index is not None:
                image = image_of(pixels[index]).resize((width * scale, height * scale), Image.Resampling.BICUBIC)
                mask = image if image.mode == "RGBA" else None
                sheet.paste(image, (margin + x * cell_width + GAP, top), mask)
    return sheet
