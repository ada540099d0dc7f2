"""Pictures of many images: grids that a person can read, also where an image is only 8 pixels wide."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from diffusion_lab.shapes import Labels, Pixels

LEAST_CELL = 48
"""Images narrower than this many pixels are enlarged by a whole number, smoothly: a person reads them better so."""
GAP, GROUP_GAP, BLOCK_GAP = 2, 8, 12
FONT_SIZE = 13
LONGEST_NAME = 160
"""Pixels of a class name beside its row."""
TALL = 20
"""From so many rows on, short ones stand side by side."""
INK, PAPER = (20, 20, 20), (255, 255, 255)


def to_image(pixels: Pixels) -> Image.Image:
    """One image ``(C, H, W)``, uint8, with 1, 3 or 4 channels, as a PIL image."""
    array = pixels.permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def image_pixels(image: Image.Image) -> Pixels:
    """The pixels ``(C, H, W)``, uint8, of a PIL image that ``to_image`` made."""
    array = torch.from_numpy(np.array(image))
    return array[None] if array.ndim == 2 else array.permute(2, 0, 1)


def image_grid(pixels: Pixels, columns: int | None = None) -> Image.Image:
    """Images ``(N, C, H, W)`` row by row; a near-square grid where ``columns`` is None."""
    columns = columns or max(round(len(pixels) ** 0.5), 1)
    cells: list[int | None] = list(range(len(pixels)))
    cells += [None] * (-len(cells) % columns)
    return _draw(pixels, [cells[start : start + columns] for start in range(0, len(cells), columns)])


def class_grid(pixels: Pixels, labels: Sequence[int] | Labels, class_names: Sequence[str] = ()) -> Image.Image:
    """Images ``(N, C, H, W)`` with one row a class, the classes' names beside the rows."""
    numbers = [int(label) for label in labels]
    return ClassGrid(numbers, class_names, order=sorted(set(numbers))).draw(pixels.__getitem__)


class ClassGrid:
    """Where each image of a grid with a row a class goes: its label and guidance scale decide.

    Of several guidance scales each has columns of its own, with a caption above; with a single class, or more scales
    than columns, each has rows of its own. Images beyond the columns go into further rows of their class. Many short
    rows stand in blocks side by side.

    Args:
        labels: Class number of each image.
        class_names: Names of the classes; a class without one shows its number.
        columns: Most images in a row, at least 1; None for as many as there are.
        scales: Guidance scale of each image; None for no captions about it.
        order: The classes from top to bottom; as they come in ``labels`` where None.
        most_rows: Rows in a block; what is below is left out.
    """

    def __init__(
        self,
        labels: Sequence[int],
        class_names: Sequence[str] = (),
        columns: int | None = None,
        scales: Sequence[float] | None = None,
        order: Sequence[int] | None = None,
        most_rows: int | None = None,
    ) -> None:
        order = list(dict.fromkeys(labels)) if order is None else order
        names = {label: class_names[label] if label < len(class_names) else str(label) for label in order}
        known = list(dict.fromkeys(scales or ()))
        by_row = len(known) > 1 and (len(order) == 1 or (columns is not None and len(known) > columns))
        cells: dict[tuple[int, float | None], list[int]] = {}
        for index, label in enumerate(labels):
            cells.setdefault((label, scales[index] if scales and len(known) > 1 else None), []).append(index)
        rows: list[tuple[str, list[list[int]]]]
        if by_row:
            captions: list[str] = []
            rows = [
                (f"{names[label]}, scale {scale:g}", [cells.get((label, scale), [])])
                for label in order
                for scale in known
            ]
        else:
            groups = known if len(known) > 1 else [None]
            captions = [f"scale {scale:g}" for scale in groups if scale is not None]
            rows = [(names[label], [cells.get((label, scale), []) for scale in groups]) for label in order]
        self._captions = captions
        self._widths = _widths([groups for _, groups in rows], columns)
        lines = [line for name, groups in rows for line in _lines(name, groups, self._widths)]
        side_by_side = min(columns // sum(self._widths), -(-len(lines) // TALL)) if columns else 1
        height = -(-len(lines) // max(side_by_side, 1))
        blocks = [lines[start : start + height] for start in range(0, len(lines), height)]
        self._blocks = [block[:most_rows] for block in blocks]

    @property
    def indices(self) -> list[int]:
        """The numbers of the images that are in the grid, rising."""
        cells = (index for block in self._blocks for _, line in block for index in line)
        return sorted(index for index in cells if index is not None)

    def draw(self, image: Callable[[int], Pixels]) -> Image.Image:
        """Draw the grid.

        Args:
            image: Gives the pixels ``(C, H, W)`` of an image by its number.
        """
        numbers = self.indices
        read = torch.stack([image(index) for index in numbers])
        places = {index: place for place, index in enumerate(numbers)}
        parts = []
        for block in self._blocks:
            rows = [[None if index is None else places[index] for index in line] for _, line in block]
            parts.append(_draw(read, rows, [name for name, _ in block], self._captions, self._widths))
        if len(parts) == 1:
            return parts[0]
        size = sum(part.width + BLOCK_GAP for part in parts) - BLOCK_GAP, max(part.height for part in parts)
        sheet, left = Image.new("RGB", size, PAPER), 0
        for part in parts:
            sheet.paste(part, (left, 0))
            left += part.width + BLOCK_GAP
        return sheet


def _widths(rows: Sequence[Sequence[Sequence[int]]], columns: int | None) -> list[int]:
    """Columns of each group of a row: those that it needs, the same share for all where that is too many."""
    needed = [max(map(len, group)) for group in zip(*rows, strict=True)]
    if columns is None or sum(needed) <= columns:
        return [max(width, 1) for width in needed]
    share = max(columns // len(needed), 1)
    return [max(min(width, share), 1) for width in needed]


def _lines(name: str, groups: Sequence[Sequence[int]], widths: Sequence[int]) -> Iterator[tuple[str, list[int | None]]]:
    """The lines of a class, its name before the first: each group in its columns, None for an empty place."""
    count = max(-(-len(group) // width) for group, width in zip(groups, widths, strict=True))
    for number in range(count):
        line: list[int | None] = []
        for group, width in zip(groups, widths, strict=True):
            part = group[number * width : (number + 1) * width]
            line += [*part, *[None] * (width - len(part))]
        yield (name if number == 0 else "", line)


def _draw(
    pixels: Pixels,
    rows: Sequence[Sequence[int | None]],
    names: Sequence[str] = (),
    captions: Sequence[str] = (),
    widths: Sequence[int] = (),
) -> Image.Image:
    """Rows of images, names before them; captions above groups of so many columns, which stand a little apart."""
    height, width = pixels.shape[2:]
    scale = max(-(-LEAST_CELL // max(height, width)), 1)
    cell_width, cell_height = width * scale + GAP, height * scale + GAP
    font = ImageFont.load_default(size=FONT_SIZE)
    names = [_shortened(name, font) for name in names]
    left = max((int(font.getlength(name)) + 10 for name in names), default=0)
    above = FONT_SIZE + 6 if captions else 0
    edges = list(accumulate(widths)) if captions else []
    columns = [left + GAP + x * cell_width + GROUP_GAP * sum(x >= edge for edge in edges) for x in range(len(rows[0]))]
    size = (columns[-1] + cell_width, above + len(rows) * cell_height + GAP)
    captions = _fitting(captions, font, [width * cell_width for width in widths])
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for caption, first in zip(captions, (0, *edges), strict=False):
        draw.text((columns[first], above // 2), caption, INK, font, anchor="lm")
    for y, row in enumerate(rows):
        top = above + y * cell_height + GAP
        if names:
            draw.text((4, top + cell_height // 2), names[y], INK, font, anchor="lm")
        for x, index in enumerate(row):
            if index is not None:
                image = to_image(pixels[index]).resize((width * scale, height * scale), Image.Resampling.BICUBIC)
                mask = image if image.mode == "RGBA" else None
                sheet.paste(image, (columns[x], top), mask)
    return sheet


def _shortened(name: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """A name on one line, cut where it would take more room than the images."""
    name = " ".join(name.split())
    if font.getlength(name) <= LONGEST_NAME:
        return name
    while name and font.getlength(name + "…") > LONGEST_NAME:
        name = name[:-1]
    return name + "…"


def _fitting(
    captions: Sequence[str], font: ImageFont.ImageFont | ImageFont.FreeTypeFont, widths: Sequence[int]
) -> Sequence[str]:
    """The captions; without their first word where one of them would reach the next."""
    if all(font.getlength(caption) <= width for caption, width in zip(captions, widths, strict=False)):
        return captions
    return [caption.rpartition(" ")[2] for caption in captions]
