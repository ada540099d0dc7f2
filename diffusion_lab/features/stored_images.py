"""Image sets of stored pixels: npz files of the ADM suite, and finished output folders of ``sample.py``."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffusion_lab.data.pixels import background_colour, convert_arrays
from diffusion_lab.data.source import ImageSource, IndexArray, PixelArray
from diffusion_lab.features.npz_arrays import NpzImages
from diffusion_lab.generation.arrays import ARRAYS
from diffusion_lab.generation.request import DIGEST, MANIFEST
from diffusion_lab.generation.verified_folder import (
    REMEDY,
    check_single_generation,
    manifest_lines,
    read_verified_image,
    refuse_other_pixels,
)

BACKGROUND = background_colour("white")
"""Background of transparent pixels when alpha is dropped."""


class StoredImages(ImageSource):
    """Images of one size, read one at a time and converted to the requested size and channels.

    Args:
        shape: Height, width and channels of the stored images.
        labels: Class numbers ``(N,)``; zeros without classes.
        class_names: Class names by class number; empty without classes.
        image_size: Side of the returned square images; None: that of the stored ones.
        channels: 1 (gray), 3 (RGB) or 4 (RGBA); None: those of the stored images, without alpha.
        key: Setting or argument of the images, for error messages.
        size_key: Setting or argument that ``image_size`` comes from, for error messages.

    Raises:
        ValueError: The images are not square and no size is given.
    """

    varies = False

    def __init__(
        self,
        shape: tuple[int, int, int],
        labels: IndexArray,
        class_names: Sequence[str],
        image_size: int | None,
        channels: int | None,
        key: str,
        size_key: str,
    ) -> None:
        height, width, stored_channels = shape
        if image_size is None and height != width:
            raise ValueError(
                f"{key} holds images of {width}×{height} pixels, which are not square: set {size_key} to the side of "
                "the square center crop"
            )
        self.labels, self.class_names = labels, tuple(class_names)
        self.image_size = height if image_size is None else image_size
        self.channels = channels or (1 if stored_channels == 1 else 3)
        self._shape, self._key = shape, key

    @abstractmethod
    def stored(self, index: int) -> PixelArray:
        """Return image ``index`` as stored, uint8 ``(H, W, C)``."""

    def load(self, index: int, rng: np.random.Generator | None) -> PixelArray:
        pixels = self.stored(index)
        if pixels.shape != self._shape:
            raise ValueError(
                f"{self._key} must hold images of one shape, got (height, width, channels) {self._shape} for the first "
                f"and {pixels.shape} for image {index}"
            )
        if pixels.shape[2] == 1:
            pixels = pixels[..., 0]
        converted: PixelArray = convert_arrays(pixels[None], self.image_size, self.channels, BACKGROUND)[0]
        return converted


class NpzSource(StoredImages):
    """Images in an npz file of the ADM evaluation suite, read from disk on demand.

    Args:
        path: File with ``arr_0`` uint8 ``(N, H, W, C)`` or ``(N, H, W)``, optionally the class numbers ``arr_1``
            ``(N,)``.
        image_size: Side of the returned square images; None: that of the stored ones.
        channels: 1 (gray), 3 (RGB) or 4 (RGBA); None: those of the stored images, without alpha.
        key: Setting or argument of the images, for error messages.
        size_key: Setting or argument that ``image_size`` comes from, for error messages.

    Raises:
        ValueError: The file is damaged or has another layout.
        OSError: It cannot be read.
    """

    def __init__(
        self,
        path: Path,
        image_size: int | None = None,
        channels: int | None = None,
        key: str = "images",
        size_key: str = "image_size",
    ) -> None:
        self._images = NpzImages(path, key)
        labels = self._images.labels
        names = () if labels is None else tuple(map(str, range(int(labels.max()) + 1)))
        numbers = np.zeros(len(self._images), np.int64) if labels is None else labels
        super().__init__(self._images.shape, numbers, names, image_size, channels, key, size_key)

    def stored(self, index: int) -> PixelArray:
        return self._images[index]

    def fingerprint(self) -> str:
        """Return a hash of all stored pixels and labels, and of the returned size and channels."""
        sha256 = self._start_hash()
        sha256.update(f"{self._images.shape} {self._images.sha256}".encode())
        return sha256.hexdigest()


class GeneratedSource(StoredImages):
    """Images in a finished output folder of ``sample.py``, with the requested labels.

    Each image is compared with its line of the manifest when it is loaded, so files that were changed, added or copied
    into the folder are not used as samples.

    Args:
        folder: The folder.
        image_size: Side of the returned square images; None: that of the stored ones.
        channels: 1 (gray), 3 (RGB) or 4 (RGBA); None: those of the stored images, without alpha.
        key: Setting or argument of the images, for error messages.
        size_key: Setting or argument that ``image_size`` comes from, for error messages.

    Attributes:
        lines: The lines of the manifest.

    Raises:
        ValueError: The folder is unfinished or damaged, or only some of its images have labels.
        OSError: It cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        image_size: int | None = None,
        channels: int | None = None,
        key: str = "images",
        size_key: str = "image_size",
    ) -> None:
        self.folder, self.lines = folder, manifest_lines(folder)
        check_single_generation(folder, self.lines)
        self._arrays = None if all(line.get("file") for line in self.lines) else self._open_arrays(key)
        labels, names = _read_labels(self.lines, key)
        super().__init__(self.stored(0).shape, labels, names, image_size, channels, key, size_key)

    def stored(self, index: int) -> PixelArray:
        line = self.lines[index]
        if self._arrays is None:
            image: PixelArray = read_verified_image(self.folder, line).permute(1, 2, 0).numpy()
            return image
        pixels = self._arrays[index]
        refuse_other_pixels(self.folder / ARRAYS, line, torch.from_numpy(pixels).permute(2, 0, 1))
        return pixels

    def fingerprint(self) -> str:
        """Return a hash of the digests in the manifest, each of which covers an image and its settings."""
        sha256 = self._start_hash()
        for line in self.lines:
            sha256.update(line[DIGEST].encode())
        return sha256.hexdigest()

    def _open_arrays(self, key: str) -> NpzImages:
        try:
            arrays = NpzImages(self.folder / ARRAYS, key)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{self.folder} does not hold its {len(self.lines)} images, neither as PNG nor in {ARRAYS}: generate "
                "them with generation.output.save_individual=true or save_npz=true"
            ) from None
        if len(arrays) != len(self.lines):
            raise ValueError(
                f"{self.folder / ARRAYS} must hold the {len(self.lines)} images of its manifest, "
                f"got {len(arrays)}: run the command that made the folder again, which repairs it"
            )
        labels = [line["label"] for line in self.lines if line.get("label") is not None]
        if ([] if arrays.labels is None else arrays.labels.tolist()) != labels:
            raise ValueError(f"the labels (arr_1) in {self.folder / ARRAYS} are not those of {MANIFEST}; {REMEDY}")
        return arrays


def _read_labels(lines: Sequence[Mapping[str, Any]], key: str) -> tuple[IndexArray, tuple[str, ...]]:
    """Return the class number of each image and the class names; the number is the name of a class without images."""
    labels = [line.get("label") for line in lines]
    present = [label for label in labels if label is not None]
    if not present:
        return np.zeros(len(lines), np.int64), ()
    if len(present) < len(labels):
        raise ValueError(
            f"{key} must hold images that all have a label, or none: {len(present)} of {len(labels)} have one"
        )
    names = {line["label"]: line.get("class_name") for line in lines}
    return np.array(present, np.int64), tuple(str(names.get(number) or number) for number in range(max(present) + 1))
