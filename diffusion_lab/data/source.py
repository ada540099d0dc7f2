"""Interface of all data sets: indexed images of one size, each with a class number."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diffusion_lab.data.skipped_images import SkippedImage

PixelArray = NDArray[np.uint8]
IndexArray = NDArray[np.int64]
HashArray = NDArray[np.uint8]

FINGERPRINTED = 256
"""Number of images in the default fingerprint of a source."""


class ImageSource(ABC):
    """Indexed images, all of the same size and number of channels.

    ``labels`` (N,) int64 holds the class number of each image, an index into ``class_names``. A data set without
    classes has no names, and all labels are 0.
    """

    class_names: tuple[str, ...]
    labels: IndexArray
    channels: int
    image_size: int

    varies: bool = True
    """True if loading may be random; otherwise no ``rng`` is passed."""

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def load(self, index: int, rng: np.random.Generator | None) -> PixelArray:
        """Load image ``index`` as uint8 (C, S, S). ``rng`` is for random choices of the source (a random crop);
        without it the result is always the same (a central crop)."""

    def load_batch(self, indices: IndexArray, rng: np.random.Generator | None) -> PixelArray:
        """Load several images as uint8 (N, C, S, S), in a new array; they use ``rng`` one after the other."""
        return np.stack([self.load(index, rng) for index in indices.tolist()])

    def fingerprint(self) -> str:
        """Return the SHA-256, in hexadecimal, of the images with their labels and class names.

        It is equal for the same images in the same order, wherever they are stored. This default samples up to 256
        images, spread evenly: loading all would take an epoch at each start. A source that can identify its images
        more cheaply, or has them all in memory, overrides this method.
        """
        digest = self._start_hash()
        for index in np.unique(np.linspace(0, len(self) - 1, FINGERPRINTED, dtype=np.int64)).tolist():
            digest.update(np.ascontiguousarray(self.load(index, None)).data)
        return digest.hexdigest()

    def hashes(self) -> HashArray | None:
        """Return the SHA-256 of each image's file, (N, 32), to find images that are in two sets; None if unknown."""
        return None

    def take_skipped(self) -> Sequence[SkippedImage]:
        """Return the images that ``load`` could not decode since the last call, in this process."""
        return ()

    def raise_if_damaged(self, wait: bool = False) -> None:  # noqa: B027 (most sources have nothing to check)
        """Raise ValueError if images that were already loaded have turned out to be damaged.

        Args:
            wait: Wait until all images are verified.
        """

    def _start_hash(self) -> hashlib._Hash:
        """Start a fingerprint with the shape of the images and their labels."""
        form = (self.channels, self.image_size, self.class_names)
        digest = hashlib.sha256(repr(form).encode())
        digest.update(np.ascontiguousarray(self.labels).data)
        return digest


class ArraySource(ImageSource):
    """Images held in memory: ``images`` uint8 (N, C, S, S), ``labels`` (N,) integers."""

    def __init__(self, images: PixelArray, labels: Sequence[int] | IndexArray, class_names: Sequence[str]) -> None:
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[2] != images.shape[3]:
            raise ValueError(f"images must be uint8 (N, C, S, S), got {images.dtype} {images.shape}")
        self.images = images
        self.labels = np.asarray(labels, dtype=np.int64)
        self.class_names = tuple(class_names)
        self.channels, self.image_size = images.shape[1], images.shape[2]
        if self.labels.shape != (len(images),):
            raise ValueError(f"labels must be ({len(images)},), one per image, got {self.labels.shape}")
        if self.labels.size and not 0 <= self.labels.min() <= self.labels.max() < max(1, len(self.class_names)):
            raise ValueError(
                f"labels must lie in 0 to {max(1, len(self.class_names)) - 1}, "
                f"got {self.labels.min()} to {self.labels.max()}"
            )

    def load(self, index: int, rng: np.random.Generator | None) -> PixelArray:
        image: PixelArray = self.images[index]
        return image

    def load_batch(self, indices: IndexArray, rng: np.random.Generator | None) -> PixelArray:
        return self.images[indices]

    def fingerprint(self) -> str:
        """Return the hash of all images."""
        digest = self._start_hash()
        digest.update(np.ascontiguousarray(self.images).data)
        return digest.hexdigest()


class Subset(ImageSource):
    """Images ``indices`` of another source, in that order, with all its classes."""

    def __init__(self, source: ImageSource, indices: Sequence[int] | IndexArray) -> None:
        self.source = source
        self.indices = np.asarray(indices, dtype=np.int64)
        self.labels = source.labels[self.indices]
        self.class_names = source.class_names
        self.channels, self.image_size, self.varies = source.channels, source.image_size, source.varies

    def load(self, index: int, rng: np.random.Generator | None) -> PixelArray:
        return self.source.load(int(self.indices[index]), rng)

    def load_batch(self, indices: IndexArray, rng: np.random.Generator | None) -> PixelArray:
        return self.source.load_batch(self.indices[indices], rng)

    def fingerprint(self) -> str:
        """Return the hash of the full source's fingerprint and the indices."""
        digest = self._start_hash()
        digest.update(self.source.fingerprint().encode())
        digest.update(np.ascontiguousarray(self.indices).data)
        return digest.hexdigest()

    def hashes(self) -> HashArray | None:
        known = self.source.hashes()
        return None if known is None else known[self.indices]

    def take_skipped(self) -> Sequence[SkippedImage]:
        return self.source.take_skipped()

    def raise_if_damaged(self, wait: bool = False) -> None:
        self.source.raise_if_damaged(wait)


class Renumbered(ImageSource):
    """Images of another source with renumbered classes.

    Args:
        source: The images; all its class names must be in ``class_names``.
        class_names: The names in the order of the new numbers; there may be more of them.
    """

    def __init__(self, source: ImageSource, class_names: Sequence[str]) -> None:
        self.source = source
        self.class_names = tuple(class_names)
        numbers = np.array([self.class_names.index(name) for name in source.class_names], dtype=np.int64)
        self.labels = numbers[source.labels]
        self.channels, self.image_size, self.varies = source.channels, source.image_size, source.varies

    def load(self, index: int, rng: np.random.Generator | None) -> PixelArray:
        return self.source.load(index, rng)

    def load_batch(self, indices: IndexArray, rng: np.random.Generator | None) -> PixelArray:
        return self.source.load_batch(indices, rng)

    def hashes(self) -> HashArray | None:
        return self.source.hashes()

    def take_skipped(self) -> Sequence[SkippedImage]:
        return self.source.take_skipped()

    def raise_if_damaged(self, wait: bool = False) -> None:
        self.source.raise_if_damaged(wait)


def renumber_classes(source: ImageSource, class_names: Sequence[str]) -> ImageSource:
    """Number the classes of a source in the order of ``class_names``.

    For sources without files, the fingerprint is the same as if the source had used these numbers itself.
    """
    if isinstance(source, Subset):
        return Subset(renumber_classes(source.source, class_names), source.indices)
    numbered = Renumbered(source, class_names)
    return ArraySource(source.images, numbered.labels, class_names) if isinstance(source, ArraySource) else numbered
