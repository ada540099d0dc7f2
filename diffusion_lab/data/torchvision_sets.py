"""Data sets that torchvision downloads: MNIST, Fashion-MNIST and CIFAR-10."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from diffusion_lab.data.pixels import convert_arrays
from diffusion_lab.data.source import ArraySource
from diffusion_lab.runtime import torchvision_import

TorchvisionName = Literal["mnist", "cifar10", "fashion_mnist"]
CLASSES = {"mnist": "MNIST", "cifar10": "CIFAR10", "fashion_mnist": "FashionMNIST"}
"""Class in torchvision.datasets for each name in the settings."""


def torchvision_set(
    name: TorchvisionName, root: Path | str, train: bool, image_size: int, channels: int
) -> ArraySource:
    """Return the training or test split of a torchvision data set stored in the folder ``root``.

    Missing files are downloaded.

    Raises:
        FileNotFoundError: the files are missing and could not be downloaded; the message says which belong where.
    """
    torchvision_import.install()
    # torchvision is slow to import, and most runs never need it
    from torchvision import datasets

    kind: Any = getattr(datasets, CLASSES[name])
    try:
        dataset = kind(str(root), train=train, download=True)
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"data.type = {name} needs files in data.paths.train = {str(root)!r}: they are missing (or "
            f"damaged) and the download failed: {error}. Without a network, "
            f"{_by_hand(name, kind, Path(root))}, or take data=digits or data=emoji, which need none."
        ) from error
    images = convert_arrays(np.asarray(dataset.data), image_size, channels, background=(0, 0, 0))
    # torchvision calls the digits '0 - zero' and so on; the number is enough
    class_names = tuple(name.split(" - ")[0] for name in dataset.classes)
    return ArraySource(images, np.asarray(dataset.targets, dtype=np.int64), class_names)


def _by_hand(name: str, kind: Any, root: Path) -> str:
    """Describe how to fetch the files on another machine, and where to put them."""
    if name == "cifar10":
        return f"fetch {kind.url} on another machine and put it at {root / kind.filename}"
    files = ", ".join(file for file, _ in kind.resources)
    folder = root / kind.__name__ / "raw"
    return f"fetch {files} from {kind.mirrors[-1]} on another machine and put them into {folder}"
