"""Decoded images of a folder in one array, in memory or mapped from a file."""

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

from diffusion_lab.data.cache_files import open_private
from diffusion_lab.data.contents import Content, Contents
from diffusion_lab.data.folder_report import report_decoder_warnings
from diffusion_lab.data.image_folder import ImageFolderSource
from diffusion_lab.data.parallel import map_in_order
from diffusion_lab.data.pixels import cut_square
from diffusion_lab.data.source import HashArray, ImageSource, IndexArray, PixelArray
from diffusion_lab.data.verification import DamagedCacheError, Verification
from diffusion_lab.runtime.devices import host_memory

Progress = Callable[[int, int], None]
"""Called with (files done, total files)."""


class DecodedSource(ImageSource):
    """Source of the images of an ``ImageFolderSource`` that are already decoded.

    Args:
        pixels: all images, uint8, one after the other; or the file that holds them. A file is memory-mapped, so only
            the parts in use take memory, shared by all processes.
        sides: height and width of each image (N, 2), with the output size as the shorter side; None if all images are
            squares.
        labels: class number of each image.
        class_names: names of the classes.
        channels: number of channels.
        image_size: side S of the output images.
        fingerprint: fingerprint of the folder.
        hashes: SHA-256 of the image files, (N, 32).
        verification: pending verification of the file of pixels.
        key: setting that the folder comes from, for messages.

    Raises:
        ValueError: the number of bytes does not match the images.
        OSError: the file cannot be read, or another user may have written it.
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
        self._check_size(len(self._pixels))

    def load(self, index: int, rng: np.random.Generator | None) -> PixelArray:
        image: PixelArray = self.load_batch(np.array([index]), rng)[0]
        return image

    def load_batch(self, indices: IndexArray, rng: np.random.Generator | None) -> PixelArray:
        if self._mapping is not None:  # reading beyond the end of a mapped file would kill the process
            self._check_size(self._mapping.size())
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
        """Return the fingerprint of the folder, computed when the files were decoded."""
        return self._fingerprint

    def hashes(self) -> HashArray | None:
        return self._hashes

    def raise_if_damaged(self, wait: bool = False) -> None:
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
        """Exclude the images, which a worker that is not forked maps again."""
        unsent = {"_pixels": None, "_mapping": None, "_verification": None, "_hashes": None}
        return {**self.__dict__, **unsent} if self._file else self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._file:
            self._map(self._file)

    def _map(self, file: Path) -> None:
        with open_private(file) as stream:
            self._check_size(os.fstat(stream.fileno()).st_size)
            self._mapping = mmap.mmap(stream.fileno(), self._bytes, access=mmap.ACCESS_READ)
        # a plain array over the mapping: NumPy's memmap class is slow to index, and pickles the entire file
        self._pixels = np.frombuffer(self._mapping, np.uint8)

    def _check_size(self, size: int) -> None:
        if size != self._bytes:
            where = f" in {self._file}" if self._file else ""
            raise ValueError(f"{len(self.labels)} decoded images must be {self._bytes} bytes, got {size}{where}")


@dataclass(frozen=True)
class Decoding:
    """Result of decoding the files of a folder.

    Attributes:
        sides: height and width of each image in order, (N, 2).
        contents: sizes and hashes of the image files in order.
        corrupt: error of each corrupt file, by its index in the folder.
    """

    sides: IndexArray
    contents: Contents
    corrupt: dict[int, Exception]


class PixelWriter(Protocol):
    """Stream for decoded pixels."""

    def write(self, pixels: memoryview, /) -> Any: ...


def decode_all(source: ImageFolderSource, stream: PixelWriter, progress: Progress | None) -> Decoding:
    """Decode every file and write its pixels to ``stream``, in order; only a few are in memory at a time."""
    sides, contents = array("q"), Contents()
    corrupt: dict[int, Exception] = {}
    with report_decoder_warnings(source.key):
        for index, result in enumerate(map_in_order(lambda index: _decoded(source, index), len(source))):
            if isinstance(result, Exception):
                corrupt[index] = result
            else:
                content, pixels = result
                stream.write(pixels.data)
                sides.extend(pixels.shape[1:])
                contents.append(content)
            if progress is not None:
                progress(index + 1, len(source))
    return Decoding(np.frombuffer(sides.tobytes(), np.int64).reshape(-1, 2), contents, corrupt)


def least_bytes(source: ImageFolderSource) -> int:
    """Return the size of all decoded images in bytes; a lower bound if non-square images keep their long side."""
    return len(source) * source.channels * source.image_size**2


def sides_to_keep(source: ImageFolderSource, sides: IndexArray) -> IndexArray | None:
    """Return the sides, or None if all images are squares of the output size."""
    return None if (sides == source.image_size).all() else sides


def decode_in_memory(source: ImageFolderSource, progress: Progress | None = None) -> DecodedSource:
    """Decode all images of a folder into memory; corrupt files are handled as in ``check``.

    Raises:
        ValueError: as in ``check``, or the images need more memory than this machine has.
    """
    needed, available = least_bytes(source), host_memory()
    if needed > available:
        raise ValueError(
            f"data.cache = memory takes {needed / 1e9:.1f} GB for the images of {source.key}, and this machine has "
            f"{available / 1e9:.1f} GB: take data.cache = disk"
        )
    stream = io.BytesIO()
    decoding = decode_all(source, stream, progress)
    source.drop(decoding.corrupt)
    return DecodedSource(
        np.frombuffer(stream.getbuffer(), np.uint8),
        sides_to_keep(source, decoding.sides),
        source.labels,
        source.class_names,
        source.channels,
        source.image_size,
        source.fingerprint_of(decoding.contents),
        decoding.contents.hashes(),
    )


def _decoded(source: ImageFolderSource, index: int) -> tuple[Content, PixelArray] | Exception:
    try:
        return source.content_and_decode(index)
    except Exception as error:  # Pillow's decoders raise nearly everything for a damaged file
        return error.with_traceback(None)  # the traceback would keep the partly decoded image alive
