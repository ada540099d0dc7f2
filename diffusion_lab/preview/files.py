"""Files that are written into a folder that may hold a run: only files of the same origin are replaced."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diffusion_lab.files.reading import read_json
from diffusion_lab.files.writing import atomic_write, check_writable, name_folder_in_errors
from diffusion_lab.runs.epoch_images import TEXT_KEY

FOLDER_KEY = "output.base_dir"


def check_replaceable(*files: Path) -> None:
    """Refuse to write where there is a file that these functions did not write.

    Raises:
        ValueError: Naming it.
        PermissionError: The folder is not writable.
    """
    for file in files:
        if (file.exists() or file.is_symlink()) and not _is_ours(file):
            raise ValueError(
                f"{file} is in the way: a file of that name is to be written, and this one has another origin. Move it "
                f"away, or choose another {FOLDER_KEY}"
            )
        check_writable(file.parent, FOLDER_KEY)


def save_picture(image: Image.Image, file: Path) -> None:
    """Write a PNG, with its name as a text by which it is recognized later; the folder is created if missing."""
    text = PngInfo()
    text.add_text(TEXT_KEY, file.name)
    with name_folder_in_errors(file.parent, FOLDER_KEY):
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file, durable=False) as partial:
            image.save(partial, "PNG", pnginfo=text)


def save_figures(figures: Mapping[str, Any], file: Path) -> None:
    """Write figures as JSON, with the name of the file among them, by which it is recognized later."""
    content = json.dumps({TEXT_KEY: file.name, **figures}, indent=2)
    with name_folder_in_errors(file.parent, FOLDER_KEY), atomic_write(file, durable=False) as partial:
        partial.write_text(content + "\n", encoding="utf-8")


def _is_ours(file: Path) -> bool:
    if file.is_symlink() or not file.is_file():
        return False
    try:
        if file.suffix == ".json":
            content = read_json(file)
            return isinstance(content, dict) and content.get(TEXT_KEY) == file.name
        with Image.open(file, formats=["PNG"]) as image:
            return bool(image.info.get(TEXT_KEY) == file.name)
    except (OSError, SyntaxError, ValueError):
        return False
