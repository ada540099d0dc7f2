"""A picture made of rows of images and text, with pixels enlarged without smoothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from diffusion_lab.image_grids import to_image
from diffusion_lab.shapes import ImagePixels, Pixels

CELL = 96
"""Least side of an image on the sheet, in pixels; smaller ones are enlarged by a whole factor."""

LARGEST_CELL = 192
"""Largest side of an image on the sheet; larger ones are shrunk."""

COLUMNS = 9
GAP, MARGIN = 8, 32
INK, SOFT, FRAME, PAPER = (24, 27, 32), (92, 99, 110), (214, 218, 224), (255, 255, 255)

Font = ImageFont.FreeTypeFont


class Sheet:
    """Collects titles, rows and pictures from top to bottom.

    Args:
        image_size: Side of the images in pixels, which determines the width.
    """

    def __init__(self, image_size: int) -> None:
        factor = max(-(-CELL // image_size), 1)
        self.cell = min(image_size * factor, LARGEST_CELL)
        self.width = 2 * MARGIN + COLUMNS * self.cell + (COLUMNS - 1) * GAP
        self._image = Image.new("RGB", (self.width, 200), PAPER)
        self._y = MARGIN

    @property
    def inner_width(self) -> int:
        """Width between the margins, in pixels."""
        return self.width - 2 * MARGIN

    def title(self, text: str) -> None:
        """Add the title of the sheet."""
        self._text(text, font(26, bold=True), INK, after=6)

    def heading(self, text: str, explanation: str = "") -> None:
        """Add the heading of a part, and a paragraph below it."""
        self._y += 22
        self._text(text, font(18, bold=True), INK, after=4)
        if explanation:
            self.paragraph(explanation)
        self._y += 10

    def paragraph(self, text: str) -> None:
        """Add text, wrapped at the width of the sheet."""
        line, small = "", font(14)
        for word in text.split():
            longer = f"{line} {word}".strip()
            if line and small.getlength(longer) > self.inner_width:
                self._text(line, small, SOFT, after=3)
                longer = word
            line = longer
        self._text(line, small, SOFT, after=3)

    def captions(self, lines: Sequence[str]) -> None:
        """Add a caption above or below each column; a line break starts a second line."""
        rows = [caption.split("\n") for caption in lines]
        height = max(map(len, rows))
        draw = self._grow(18 * height + 4)
        for column, parts in enumerate(rows):
            for number, part in enumerate(parts):
                small = font(13)
                center = self._left(column) + self.cell // 2, self._y + 18 * number + 2
                draw.text(center, shortened(part, small, self.cell + GAP - 4), INK, small, "ma")
        self._y += 18 * height + 4

    def in_two_lines(self, text: str) -> str:
        """Return a caption with a line break between two words if it is too wide for one line."""
        small, words = font(13), text.split()
        for count in range(len(words), 0, -1):
            first = " ".join(words[:count])
            if small.getlength(first) <= self.cell + GAP - 4:
                return "\n".join(filter(None, (first, " ".join(words[count:]))))
        return text

    def images(self, pixels: Pixels | Sequence[ImagePixels]) -> None:
        """Add a row of at most ``COLUMNS`` images."""
        draw = self._grow(self.cell)
        for column, image in enumerate(pixels):
            picture = to_image(image)
            how = Image.Resampling.NEAREST if picture.width <= self.cell else Image.Resampling.LANCZOS
            picture = picture.resize((self.cell, self.cell), how)
            left, top = self._left(column), self._y
            self._image.paste(picture, (left, top), picture if picture.mode == "RGBA" else None)
            draw.rectangle((left - 1, top - 1, left + self.cell, top + self.cell), outline=FRAME)
        self._y += self.cell

    def space(self, height: int) -> None:
        """Add empty space."""
        self._y += height

    def picture(self, picture: Image.Image) -> None:
        """Add a picture of the full width."""
        self._grow(picture.height)
        self._image.paste(picture, (MARGIN, self._y))
        self._y += picture.height

    def finished(self) -> Image.Image:
        """Return the sheet."""
        return self._image.crop((0, 0, self.width, self._y + MARGIN))

    def _left(self, column: int) -> int:
        return MARGIN + column * (self.cell + GAP)

    def _text(self, text: str, how: Font, color: tuple[int, int, int], after: int) -> None:
        height = int(how.size * 1.3)
        self._grow(height).text((MARGIN, self._y), shortened(text, how, self.inner_width), color, how)
        self._y += height + after

    def _grow(self, height: int) -> ImageDraw.ImageDraw:
        """Make room below the last line, and return what draws on the sheet."""
        needed = self._y + height + MARGIN
        if needed > self._image.height:
            larger = Image.new("RGB", (self.width, 2 * needed), PAPER)
            larger.paste(self._image, (0, 0))
            self._image = larger
        return ImageDraw.Draw(self._image)


def font(size: int, bold: bool = False) -> Font:
    """Return DejaVu Sans, which comes with matplotlib and has Latin, Greek, Cyrillic and more."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size)


def shortened(text: str, how: Font, width: float) -> str:
    """Return text on one line that is no wider than ``width`` pixels, with an ellipsis where it is cut."""
    text = " ".join(text.split())
    if how.getlength(text) <= width:
        return text
    while text and how.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"
