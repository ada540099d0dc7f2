"""What every data set looks like from outside: numbered images of one size, each with a class number."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diffusion_lab.data.left_out import LeftOutPicture

PixelArray = NDArray[np.uint8]
IndexArray = NDArray[np.int64]
HashArray = NDArray[np.uint8]

FINGERPRINTED = 256
"""Images that a fingerprint looks at, of a source that does not know better."""


class ImageSource(ABC):
    """Images by number, all of one size and number of channels.

    ``labels`` (N,) int64 holds the class number of each image, an index into ``class_names``. A set
    without classes has no names and all labels 0.
    """

    class_names: tuple[str, ...]
    labels: IndexArray
    channels: int
    image_size: int

    varies: bool = True
    """Whether the source may leave something to chance; where it does not, it is given no ``rng``."""

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def load(self, index: int, rng: np.random.Generator | None) -> PixelArray:
        """Image ``index`` as uint8 (C, S, S). ``rng`` decides what the source leaves to chance (a random
        crop); with None it takes the middle, so the same image comes out each time."""

    def load_batch(self, indices: IndexArray, rng: np.random.Generator | None) -> PixelArray:
        """Several images as uint8 (N, C, S, S), in an array of their own; ``rng`` as one after the other takes it."""
        return np.stack([self.load(index, rng) for index in indices.tolist()])

    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of the images with their labels and the names of the classes.

        Equal where the same images come out in the same order, wherever they lie. Here up to 256 images, spread evenly,
        stand for all: to load them all would take an epoch at each start. A source that knows its images by less, or
        all of them at once, has a method of its own.
        """
        found = self._hash_of_classes()
        for index in np.unique(np.linspace(0, len(self) - 1, FINGERPRINTED, dtype=np.int64)).tolist():
            found.update(np.ascontiguousarray(self.load(index, None)).data)
        return found.hexdigest()

    def hashes(self) -> HashArray | None:
        """SHA-256 of what each image was made from, (N, 32), to find images that are in two sets; None: not known."""
        return None

    def take_left_out(self) -> Sequence[LeftOutPicture]:
        """Return the pictures that ``load`` could not decode since the last call, in this process."""
        return ()

    def refuse_damage(self, wait: bool = False) -> None:  # noqa: B027 (most sources have nothing to refuse)
        """Raise ValueError where it has turned out that images are damaged which were given out already.

        Args:
            wait: Until it is known of all of them.
        """

    def _hash_of_classes(self) -> hashlib._Hash:
        """What all fingerprints begin with: the form of the images, and their labels."""
        form = (self.channels, self.image_size, self.class_names)
        found = hashlib.sha256(repr(form).encode())
        found.update(np.ascontiguousarray(self.labels).data)
        return found


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
            raise ValueError(f"labels must be ({len(images)},), one an image, got {self.labels.shape}")
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
        """The hash of all the bytes, as of any source, at once."""
        found = self._hash_of_classes()
        found.update(np.ascontiguousarray(self.images).data)
        return found.hexdigest()


class Subset(ImageSource):
    """The images ``indices`` of another source, in that order, with the classes of the whole."""

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
        """That of the whole source, and the numbers of the images."""
        found = self._hash_of_classes()
        found.update(self.source.fingerprint().encode())
        found.update(np.ascontiguousarray(self.indices).data)
        return found.hexdigest()

    def hashes(self) -> HashArray | None:
        known = self.source.hashes()
        return None if known is None else known[self.indices]

    def take_left_out(self) -> Sequence[LeftOutPicture]:
        return self.source.take_left_out()

    def refuse_damage(self, wait: bool = False) -> None:
        self.source.refuse_damage(wait)


class Renumbered(ImageSource):
    """The images of another source whose classes have other numbers.

    Args:
        source: The images, of whose class names each is one of ``class_names``.
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

    def take_left_out(self) -> Sequence[LeftOutPicture]:
        return self.source.take_left_out()

    def refuse_damage(self, wait: bool = False) -> None:
        self.source.refuse_damage(wait)


def renumbered(source: ImageSource, class_names: Sequence[str]) -> ImageSource:
    """The images with their classes numbered in the order of ``class_names``.

    The fingerprint is that of a source which numbers its classes so by itself, where it does not depend on files.
    """
    if isinstance(source, Subset):
        return Subset(renumbered(source.source, class_names), source.indices)
    numbered = Renumbered(source, class_names)
    return ArraySource(source.images, numbered.labels, class_names) if isinstance(source, ArraySource) else numbered
