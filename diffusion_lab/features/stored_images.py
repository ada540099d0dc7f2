"""Image sets that are pixels already: an npz of the ADM suite, a folder that ``sample.py`` has finished."""

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
"""Under transparent pixels, where alpha is dropped."""


class StoredImages(ImageSource):
    """Images of one size that are read one at a time, and brought to the size and channels asked for.

    Args:
        shape: Height, width and channels of the images as they are stored.
        labels: Class numbers ``(N,)``; zeros where there are no classes.
        class_names: Names of the classes by their numbers; none where there are no classes.
        image_size: Side of the square images that come out; None: as they are stored.
        channels: 1 (gray), 3 (RGB) or 4 (RGBA); None: as they are stored, without alpha.
        key: What the images are called in messages.
        size_key: The setting or argument that ``image_size`` comes from, for messages.

    Raises:
        ValueError: The images are not square, and no size is given.
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
        height, width, stored = shape
        if image_size is None and height != width:
            raise ValueError(
                f"{key} holds images of {width}×{height} pixels, which are not square: set {size_key} to the side of "
                "the squares to cut from their middle"
            )
        self.labels, self.class_names = labels, tuple(class_names)
        self.image_size = height if image_size is None else image_size
        self.channels = channels or (1 if stored == 1 else 3)
        self._shape, self._key = shape, key

    @abstractmethod
    def stored(self, index: int) -> PixelArray:
        """Image ``index`` as it is stored, uint8 ``(H, W, C)``."""

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
    """The images in an npz of the ADM evaluation suite, read from disk as they are asked for.

    Args:
        path: The file: ``arr_0`` uint8 ``(N, H, W, C)`` or ``(N, H, W)``, and perhaps ``arr_1`` integers ``(N,)``, the
            class numbers.
        image_size: As of ``StoredImages``.
        channels: As of ``StoredImages``.
        key: As of ``StoredImages``.
        size_key: As of ``StoredImages``.

    Raises:
        ValueError: The file is damaged or of another layout.
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
        """The hash of all stored pixels and labels, and of the size and channels that they are brought to."""
        found = self._start_hash()
        found.update(f"{self._images.shape} {self._images.sha256}".encode())
        return found.hexdigest()


class GeneratedSource(StoredImages):
    """The images of a folder that ``sample.py`` has finished, with the labels that were asked for.

    Each image is compared with its line of the manifest when it is loaded, so nothing that was changed, added or copied
    into the folder is taken for a sample.

    Args:
        folder: The folder.
        image_size: As of ``StoredImages``.
        channels: As of ``StoredImages``.
        key: As of ``StoredImages``.
        size_key: As of ``StoredImages``.

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
        self._arrays = None if all(line.get("file") for line in self.lines) else self._opened_arrays(key)
        labels, names = _labels_of(self.lines, key)
        super().__init__(self.stored(0).shape, labels, names, image_size, channels, key, size_key)

    def stored(self, index: int) -> PixelArray:
        line = self.lines[index]
        if self._arrays is None:
            picture: PixelArray = read_verified_image(self.folder, line).permute(1, 2, 0).numpy()
            return picture
        pixels = self._arrays[index]
        refuse_other_pixels(self.folder / ARRAYS, line, torch.from_numpy(pixels).permute(2, 0, 1))
        return pixels

    def fingerprint(self) -> str:
        """The hash of the digests in the manifest, each of which ties an image to all that is known of it."""
        found = self._start_hash()
        for line in self.lines:
            found.update(line[DIGEST].encode())
        return found.hexdigest()

    def _opened_arrays(self, key: str) -> NpzImages:
        try:
            found = NpzImages(self.folder / ARRAYS, key)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{self.folder} does not hold its {len(self.lines)} images, neither as PNG nor in {ARRAYS}: make them "
                "with generation.output.save_individual=true or save_npz=true"
            ) from None
        if len(found) != len(self.lines):
            raise ValueError(
                f"{self.folder / ARRAYS} must hold the {len(self.lines)} images of the manifest beside it, "
                f"got {len(found)}: run the sample.py command that made the folder again, which repairs it"
            )
        labels = [line["label"] for line in self.lines if line.get("label") is not None]
        if ([] if found.labels is None else found.labels.tolist()) != labels:
            raise ValueError(f"the labels (arr_1) in {self.folder / ARRAYS} are not those of {MANIFEST}; {REMEDY}")
        return found


def _labels_of(lines: Sequence[Mapping[str, Any]], key: str) -> tuple[IndexArray, tuple[str, ...]]:
    """The class number of each image, and the names of the classes; numbers stand for names that no image gives."""
    labels = [line.get("label") for line in lines]
    known = [label for label in labels if label is not None]
    if not known:
        return np.zeros(len(lines), np.int64), ()
    if len(known) < len(labels):
        raise ValueError(
            f"{key} must hold images that all have a label, or none: {len(known)} of {len(labels)} have one"
        )
    names = {line["label"]: line.get("class_name") for line in lines}
    return np.array(known, np.int64), tuple(str(names.get(number) or number) for number in range(max(known) + 1))
