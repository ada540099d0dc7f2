"""Grids of many images, readable even if an image is only 8 pixels wide."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from diffusion_lab.arguments import check_integer
from diffusion_lab.shapes import ImagePixels, Labels, Pixels

MIN_CELL = 48
"""Minimum size of an image in pixels; smaller ones are enlarged smoothly by an integer factor."""
GAP, GROUP_GAP, BLOCK_GAP = 2, 8, 12
FONT_SIZE = 13
MAX_NAME_LENGTH = 160
"""Maximum width of a class name next to its row, in pixels."""
TALL = 20
"""Number of rows above which short rows are arranged in several blocks."""
INK, PAPER = (20, 20, 20), (255, 255, 255)


def to_image(pixels: ImagePixels) -> Image.Image:
    """Return an image ``(C, H, W)``, uint8, with 1, 3 or 4 channels, as a PIL image."""
    array = pixels.permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def image_pixels(image: Image.Image) -> ImagePixels:
    """Return the pixels ``(C, H, W)``, uint8, of a PIL image created by ``to_image``."""
    array = torch.from_numpy(np.array(image))
    return array[None] if array.ndim == 2 else array.permute(2, 0, 1)


def _check_pixels(pixels: object) -> None:
    """Raise ValueError unless these are at least one image, as stored."""
    if isinstance(pixels, Tensor) and pixels.dtype == torch.uint8 and pixels.ndim == 4 and len(pixels):
        return
    got = f"{pixels.dtype} of shape {tuple(pixels.shape)}" if isinstance(pixels, Tensor) else type(pixels).__name__
    raise ValueError(
        f"pixels must be a uint8 tensor of images (N, C, H, W), as diffusion_lab.shapes.to_pixels returns, got {got}"
    )


def image_grid(pixels: Pixels, columns: int | None = None) -> Image.Image:
    """Draw images ``(N, C, H, W)``, uint8, row by row; a near-square grid if ``columns`` is None.

    Raises:
        ValueError: ``pixels`` or ``columns`` is something else.
    """
    _check_pixels(pixels)
    if columns is not None:
        check_integer("columns", columns, 1)
    columns = columns or max(round(len(pixels) ** 0.5), 1)
    cells: list[int | None] = list(range(len(pixels)))
    cells += [None] * (-len(cells) % columns)
    return _draw(pixels, [cells[start : start + columns] for start in range(0, len(cells), columns)])


def class_grid(pixels: Pixels, labels: Sequence[int] | Labels, class_names: Sequence[str] = ()) -> Image.Image:
    """Draw images ``(N, C, H, W)``, uint8, with one row per class and the class names next to the rows.

    Raises:
        ValueError: ``pixels`` is something else, or ``labels`` does not hold one class number for each image.
    """
    _check_pixels(pixels)
    numbers = [int(label) for label in labels]
    if len(numbers) != len(pixels) or min(numbers) < 0:
        raise ValueError(f"labels must hold one class number for each of {len(pixels)} images, got {numbers}")
    return ClassGrid(numbers, class_names, order=sorted(set(numbers))).draw(pixels.__getitem__)


class ClassGrid:
    """Layout of a grid with one row per class, by the label and guidance scale of each image.

    Several guidance scales have separate columns, with captions above; with a single class, or more scales than
    columns, they have separate rows. Images beyond the columns continue in further rows of their class. Many short rows
    are arranged in blocks next to each other.

    Args:
        labels: Class number of each image.
        class_names: Names of the classes; a class without one shows its number.
        columns: Maximum images in a row, at least 1; None for no limit.
        scales: Guidance scale of each image; None for no captions.
        order: The classes from top to bottom; in order of appearance in ``labels`` if None.
        most_rows: Maximum rows in a block; further rows are omitted.
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
        """Indices of the images in the grid, ascending."""
        cells = (index for block in self._blocks for _, line in block for index in line)
        return sorted(index for index in cells if index is not None)

    def draw(self, image: Callable[[int], ImagePixels]) -> Image.Image:
        """Draw the grid.

        Args:
            image: Returns the pixels ``(C, H, W)`` of an image by its index.
        """
        indices = self.indices
        pixels = torch.stack([image(index) for index in indices])
        positions = {index: position for position, index in enumerate(indices)}
        parts = []
        for block in self._blocks:
            rows = [[None if index is None else positions[index] for index in line] for _, line in block]
            parts.append(_draw(pixels, rows, [name for name, _ in block], self._captions, self._widths))
        if len(parts) == 1:
            return parts[0]
        size = sum(part.width + BLOCK_GAP for part in parts) - BLOCK_GAP, max(part.height for part in parts)
        sheet, left = Image.new("RGB", size, PAPER), 0
        for part in parts:
            sheet.paste(part, (left, 0))
            left += part.width + BLOCK_GAP
        return sheet


def _widths(rows: Sequence[Sequence[Sequence[int]]], columns: int | None) -> list[int]:
    """Return the number of columns of each group: as many as needed, or an equal share if that is too many."""
    needed = [max(map(len, group)) for group in zip(*rows, strict=True)]
    if columns is None or sum(needed) <= columns:
        return [max(width, 1) for width in needed]
    share = max(columns // len(needed), 1)
    return [max(min(width, share), 1) for width in needed]


def _lines(name: str, groups: Sequence[Sequence[int]], widths: Sequence[int]) -> Iterator[tuple[str, list[int | None]]]:
    """Yield the lines of a class, with its name on the first: each group in its columns, None for an empty cell."""
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
    """Draw rows of images with names before them, and captions above groups of columns of the given widths."""
    height, width = pixels.shape[2:]
    scale = max(-(-MIN_CELL // max(height, width)), 1)
    cell_width, cell_height = width * scale + GAP, height * scale + GAP
    font = ImageFont.load_default(size=FONT_SIZE)
    names = [_shorten_name(name, font) for name in names]
    left = max((int(font.getlength(name)) + 10 for name in names), default=0)
    above = FONT_SIZE + 6 if captions else 0
    edges = list(accumulate(widths)) if captions else []
    columns = [left + GAP + x * cell_width + GROUP_GAP * sum(x >= edge for edge in edges) for x in range(len(rows[0]))]
    size = (columns[-1] + cell_width, above + len(rows) * cell_height + GAP)
    captions = _fit_captions(captions, font, [width * cell_width for width in widths])
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


def _shorten_name(name: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """Return a name on one line, truncated if it is too wide."""
    name = " ".join(name.split())
    if font.getlength(name) <= MAX_NAME_LENGTH:
        return name
    while name and font.getlength(name + "…") > MAX_NAME_LENGTH:
        name = name[:-1]
    return name + "…"


def _fit_captions(
    captions: Sequence[str], font: ImageFont.ImageFont | ImageFont.FreeTypeFont, widths: Sequence[int]
) -> Sequence[str]:
    """Return the captions, without their first word if one of them would overlap the next."""
    if all(font.getlength(caption) <= width for caption, width in zip(captions, widths, strict=False)):
        return captions
    return [caption.rpartition(" ")[2] for caption in captions]
