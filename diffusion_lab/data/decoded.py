"""A folder of images that were all decoded once: one run of bytes, in memory or mapped from a file."""

from __future__ import annotations

import io
import mmap
import os
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from diffusion_lab.data.cache_files import open_own
from diffusion_lab.data.contents import Content, Contents
from diffusion_lab.data.folder_report import reporting_decoder_warnings
from diffusion_lab.data.image_folder import ImageFolderSource
from diffusion_lab.data.parallel import in_order
from diffusion_lab.data.pixels import cut_square
from diffusion_lab.data.source import HashArray, ImageSource, IndexArray, PixelArray
from diffusion_lab.data.verification import DamagedCacheError, Verification
from diffusion_lab.devices import host_memory

Progress = Callable[[int, int], None]
"""Told (files done, files in all)."""


class DecodedSource(ImageSource):
    """The same images as an ``ImageFolderSource``, without decoding.

    Args:
        pixels: all images, uint8, one after the other; or the file that holds them. A file is mapped and not read, so
            memory holds of it what is in use, and processes share that.
        sides: height and width of each image (N, 2), the shorter side that of the images that come out; None where
            all are squares.
        labels: the class number of each image.
        class_names: names of the classes.
        channels: of each image.
        image_size: side S of the images that come out.
        fingerprint: that of the folder.
        hashes: SHA-256 of the image files, (N, 32).
        verification: of the file of pixels, where it is not known yet whether they are whole.
        key: the setting that the folder comes from, for messages.

    Raises:
        ValueError: the bytes are not as many as the images need.
        OSError: the file cannot be read, or somebody else may have written it.
    """

    def __init__(
        self,
        pixels: PixelArray | Path,
        sides: IndexArray | None,
        labels: IndexArray,
        class_names: Sequence[str],
        channels: int,
        image_size: int,
        fingerprint: str,
        hashes: HashArray | None = None,
        verification: Verification | None = None,
        key: str = "data.paths.train",
    ) -> None:
        self.labels, self.class_names = labels, tuple(class_names)
        self.channels, self.image_size = channels, image_size
        self._fingerprint, self._sides, self.varies = fingerprint, sides, sides is not None
        self._starts = None if sides is None else np.cumsum(sides.prod(1) * channels) - sides.prod(1) * channels
        self._bytes = len(labels) * channels * image_size**2 if sides is None else int(sides.prod(1).sum()) * channels
        self._hashes, self._verification, self._key = hashes, verification, key
        self._file = pixels if isinstance(pixels, Path) else None
        self._mapping: mmap.mmap | None = None
        self._pixels: PixelArray
        if isinstance(pixels, Path):
            self._map(pixels)
        else:
            self._pixels = pixels
        self._refuse_other_size(len(self._pixels))

    def load(self, index: int, rng: np.random.Generator | None) -> PixelArray:
        image: PixelArray = self.load_batch(np.array([index]), rng)[0]
        return image

    def load_batch(self, indices: IndexArray, rng: np.random.Generator | None) -> PixelArray:
        if self._mapping is not None:  # reading beyond the end of a mapped file would kill the process
            self._refuse_other_size(self._mapping.size())
        shape = (self.channels, self.image_size, self.image_size)
        if self._sides is None or self._starts is None:
            gathered: PixelArray = self._pixels.reshape(-1, *shape).take(indices, axis=0)
            return gathered
        squares = np.empty((len(indices), *shape), np.uint8)
        bounds = zip(self._starts[indices].tolist(), self._sides[indices].tolist(), strict=True)
        for place, (start, (height, width)) in enumerate(bounds):
            strip = self._pixels[start : start + self.channels * height * width]
            squares[place] = cut_square(strip.reshape(self.channels, height, width), self.image_size, rng)
        return squares

    def fingerprint(self) -> str:
        """That of the folder, taken when the files were decoded."""
        return self._fingerprint

    def hashes(self) -> HashArray | None:
        return self._hashes

    def refuse_damage(self, wait: bool = False) -> None:
        verification = self._verification
        if verification is None:
            return
        if wait:
            verification.wait()
        if verification.damaged:
            raise DamagedCacheError(
                f"{self._key}: the cached images in {self._file} are not those that were decoded, so this run has been "
                "trained on damaged images since it started. That cache is removed now: start the command again, and "
                "resume only from a checkpoint that is older than this start"
            )

    def __getstate__(self) -> dict[str, Any]:
        """A worker that is not forked maps the file again; it would be sent all images otherwise."""
        unsent = {"_pixels": None, "_mapping": None, "_verification": None, "_hashes": None}
        return {**self.__dict__, **unsent} if self._file else self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._file:
            self._map(self._file)

    def _map(self, file: Path) -> None:
        with open_own(file) as stream:
            self._refuse_other_size(os.fstat(stream.fileno()).st_size)
            self._mapping = mmap.mmap(stream.fileno(), self._bytes, access=mmap.ACCESS_READ)
        # a plain array over the mapping: numpy's own memmap class is slow to index, and pickles the whole file
        self._pixels = np.frombuffer(self._mapping, np.uint8)

    def _refuse_other_size(self, size: int) -> None:
        if size != self._bytes:
            where = f" in {self._file}" if self._file else ""
            raise ValueError(f"{len(self.labels)} decoded images must be {self._bytes} bytes, got {size}{where}")


@dataclass(frozen=True)
class Decoding:
    """What became of the files of a folder.

    Attributes:
        sides: height and width of each image in order, (N, 2).
        contents: sizes and hashes of the image files in order.
        corrupt: what was said of each corrupt file, by its number in the folder.
    """

    sides: IndexArray
    contents: Contents
    corrupt: dict[int, Exception]


class PixelWriter(Protocol):
    """What decoded pixels are written to."""

    def write(self, pixels: memoryview, /) -> Any: ...


def decode_all(source: ImageFolderSource, stream: PixelWriter, progress: Progress | None) -> Decoding:
    """Decode every file and write its pixels to ``stream``, in order; memory never holds more than some of them."""
    sides, contents = array("q"), Contents()
    corrupt: dict[int, Exception] = {}
    with reporting_decoder_warnings(source.key):
        for index, found in enumerate(in_order(lambda index: _decoded(source, index), len(source))):
            if isinstance(found, Exception):
                corrupt[index] = found
            else:
                content, pixels = found
                stream.write(pixels.data)
                sides.extend(pixels.shape[1:])
                contents.append(content)
            if progress is not None:
                progress(index + 1, len(source))
    return Decoding(np.frombuffer(sides.tobytes(), np.int64).reshape(-1, 2), contents, corrupt)


def least_bytes(source: ImageFolderSource) -> int:
    """Bytes that all images take when decoded; the least where pictures that are not square keep their long side."""
    return len(source) * source.channels * source.image_size**2


def sides_to_keep(source: ImageFolderSource, sides: IndexArray) -> IndexArray | None:
    """None where all images are the squares that come out."""
    return None if (sides == source.image_size).all() else sides


def decoded_in_memory(source: ImageFolderSource, progress: Progress | None = None) -> DecodedSource:
    """All images of a folder in memory; corrupt files are dropped or fatal as ``check`` has it.

    Raises:
        ValueError: as ``check``, or this machine has less memory than the images take.
    """
    needed, there = least_bytes(source), host_memory()
    if needed > there:
        raise ValueError(
            f"data.cache = memory takes {needed / 1e9:.1f} GB for the images of {source.key}, and this machine has "
            f"{there / 1e9:.1f} GB: take data.cache = disk"
        )
    stream = io.BytesIO()
    done = decode_all(source, stream, progress)
    source.drop(done.corrupt)
    return DecodedSource(
        np.frombuffer(stream.getbuffer(), np.uint8),
        sides_to_keep(source, done.sides),
        source.labels,
        source.class_names,
        source.channels,
        source.image_size,
        source.fingerprint_of(done.contents),
        done.contents.hashes(),
    )


def _decoded(source: ImageFolderSource, index: int) -> tuple[Content, PixelArray] | Exception:
    try:
        return source.content_and_decode(index)
    except Exception as error:  # Pillow's decoders raise nearly everything for a damaged file
        return error.with_traceback(None)  # which would keep the half decoded picture
