"""Image files that a training run samples, one per epoch, marked so that they are recognized later."""

from __future__ import annotations

import json
import re
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diffusion_lab.files.reading import open_regular
from diffusion_lab.files.writing import atomic_write

NAME = re.compile(r"epoch_(\d{4,})\.png")
TEXT_KEY = "diffusion_lab"
"""Key of the text in a PNG by which such a file is recognized, whatever its name."""


def epoch_name(epoch: int) -> str:
    """Return the file name of the image of an epoch, counted from 1.

    >>> epoch_name(10)
    'epoch_0010.png'
    """
    return f"epoch_{epoch:04d}.png"


def epoch_of(file: Path) -> int | None:
    """Return the epoch in the name of an image file; None for other names."""
    match = NAME.fullmatch(file.name)
    return None if match is None else int(match[1])


def save_epoch_image(image: Image.Image, folder: Path, epoch: int) -> None:
    """Write the image of an epoch into a folder, which is created if missing."""
    folder.mkdir(parents=True, exist_ok=True)
    text = PngInfo()
    text.add_text(TEXT_KEY, _text(epoch))
    with atomic_write(folder / epoch_name(epoch), durable=False) as path:
        image.save(path, "PNG", pnginfo=text)


def is_epoch_image(file: Path) -> bool:
    """Return whether a file is an image that ``save_epoch_image`` wrote under this name."""
    epoch = epoch_of(file)
    if epoch is None or file.is_symlink():
        return False
    try:
        with open_regular(file) as content, Image.open(content, formats=["PNG"]) as image:
            return bool(image.info.get(TEXT_KEY) == _text(epoch))
    except (OSError, SyntaxError, ValueError):
        return False


def _text(epoch: int) -> str:
    return json.dumps({"epoch": epoch})
