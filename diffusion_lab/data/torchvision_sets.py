"""The classic sets that torchvision downloads: MNIST, Fashion-MNIST and CIFAR-10."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from diffusion_lab.data.pixels import convert_arrays
from diffusion_lab.data.source import ArraySource

TorchvisionName = Literal["mnist", "cifar10", "fashion_mnist"]
CLASSES = {"mnist": "MNIST", "cifar10": "CIFAR10", "fashion_mnist": "FashionMNIST"}
"""From a name in the settings to the class in torchvision.datasets."""


def torchvision_set(
    name: TorchvisionName, root: Path | str, train: bool, image_size: int, channels: int
) -> ArraySource:
    """One of torchvision's sets, its training or its test part, kept in the folder ``root``.

    What is not in the folder yet is downloaded into it.

    Raises:
        FileNotFoundError: the files are not there and could not be downloaded; says which belong where.
    """
    # torchvision is slow to import, and most runs never need it
    from torchvision import datasets

    kind: Any = getattr(datasets, CLASSES[name])
    try:
        found = kind(str(root), train=train, download=True)
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"data.type = {name} needs files in data.paths.train = {str(root)!r}: they are not there (or "
            f"damaged) and the download failed: {error}. Without a network, "
            f"{_by_hand(name, kind, Path(root))}, or take data=digits or data=emoji, which need none."
        ) from error
    images = convert_arrays(np.asarray(found.data), image_size, channels, background=(0, 0, 0))
    # torchvision calls the digits '0 - zero' and so on; the number is enough
    class_names = tuple(name.split(" - ")[0] for name in found.classes)
    return ArraySource(images, np.asarray(found.targets, dtype=np.int64), class_names)


def _by_hand(name: str, kind: Any, root: Path) -> str:
    """Where to get the files elsewhere, and where they belong."""
    if name == "cifar10":
        return f"fetch {kind.url} on another machine and put it at {root / kind.filename}"
    files = ", ".join(file for file, _ in kind.resources)
    place = root / kind.__name__ / "raw"
    return f"fetch {files} from {kind.mirrors[-1]} on another machine and put them into {place}"
