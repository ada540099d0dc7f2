"""The images and labels in an npz of the ADM evaluation suite, read from disk one at a time."""

from __future__ import annotations

import hashlib
import math
import os
import struct
import weakref
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from diffusion_lab.data.source import IndexArray, PixelArray
from diffusion_lab.files.reading import open_regular
from diffusion_lab.generation.arrays import IMAGES, LABELS
from diffusion_lab.runtime.devices import host_memory

MOST_CLASSES = 100_000
"""Class numbers that a file may use; a larger one is no class number."""

STATISTICS = {"mu.npy", "sigma.npy"}
"""What files hold that keep only mean and covariance of Inception features."""

BLOCK = 2**20
LOCAL_HEADER = 30
"""Bytes of a zip archive in front of a part's name, the last four of which give the lengths of what follows."""


class NpzImages:
    """Images by number, ``(H, W, C)`` uint8. The whole file is read once, to compare it with its checksums.

    Args:
        path: The file: ``arr_0`` uint8 ``(N, H, W, C)`` or ``(N, H, W)``, and perhaps ``arr_1`` integers ``(N,)``.
        key: What the images are called in messages.

    Attributes:
        shape: Height, width and channels of the images.
        labels: Class numbers ``(N,)``; None where the file has none.
        sha256: Hash of the images, in hexadecimal.

    Raises:
        ValueError: The file is damaged or of another layout.
        FileNotFoundError: It is missing.
        OSError: It cannot be read.
    """

    def __init__(self, path: Path, key: str = "images") -> None:
        self._path, self._key = path, key
        self._file = open_regular(path)
        close = weakref.finalize(self, self._file.close)
        try:
            with zipfile.ZipFile(self._file) as archive:
                self._read(archive)
        except Exception as error:
            close()
            if isinstance(error, OSError | ValueError):
                raise
            # a directory or header of changed bytes leads zipfile and numpy to many errors
            raise ValueError(
                f"{key} must be an npz of the ADM suite, got {str(path)!r}, which is damaged: {error}"
            ) from error

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> PixelArray:
        size = math.prod(self.shape)
        if self._memory is not None:
            image: PixelArray = self._memory[index]
            return image
        content = os.pread(self._file.fileno(), size, self._start + index * size)
        if len(content) != size:
            raise ValueError(f"{self._key}: {str(self._path)!r} has become shorter since it was opened")
        return np.frombuffer(bytearray(content), np.uint8).reshape(self.shape)

    def _read(self, archive: zipfile.ZipFile) -> None:
        names = set(archive.namelist())
        if IMAGES not in names:
            told = "only the statistics of Inception features" if names >= STATISTICS else ", ".join(sorted(names)[:6])
            raise ValueError(
                f"{self._key} must be an npz that holds the images as arr_0, got {str(self._path)!r}, which holds "
                f"{told}"
            )
        info = archive.getinfo(IMAGES)
        with archive.open(info) as file:
            self._count, *shape = self._shape_of(file, info)
            height, width, channels = (*shape, 1)[:3]
            self.shape = (height, width, channels)
            header = file.tell()
            self._memory = None if info.compress_type == zipfile.ZIP_STORED else self._loaded(file, info)
            self.sha256 = self._hash(file)
        self._start = self._place(info) + header
        self.labels = self._labels(archive) if LABELS in names else None

    def _shape_of(self, file: IO[bytes], info: zipfile.ZipInfo) -> tuple[int, ...]:
        shape, fortran_order, dtype = _header(file)
        if dtype != np.uint8 or fortran_order or len(shape) not in (3, 4) or (*shape, 1)[3] not in (1, 3, 4):
            raise ValueError(
                f"{self._key} must be an npz with arr_0 uint8 (images, height, width, channels) of 1, 3 or 4 channels, "
                f"got {dtype} {shape} in {str(self._path)!r}"
            )
        if min(shape) < 1 or math.prod(shape) != info.file_size - file.tell():
            raise ValueError(f"{self._key}: arr_0 in {str(self._path)!r} is empty, or damaged: {shape} does not fit it")
        return shape

    def _loaded(self, file: IO[bytes], info: zipfile.ZipInfo) -> PixelArray:
        """All images of a packed file, which cannot be read one at a time."""
        if info.file_size > host_memory() / 2:
            raise ValueError(
                f"{self._key}: {str(self._path)!r} is packed, so that all {info.file_size / 1e9:.1f} GB must be in "
                "memory: save it with numpy.savez, which does not pack"
            )
        content = file.read()
        self._packed = hashlib.sha256(content).hexdigest()
        return np.frombuffer(bytearray(content), np.uint8).reshape(self._count, *self.shape)

    def _hash(self, file: IO[bytes]) -> str:
        """The SHA-256 of what is left of a part, which zipfile compares with its checksum at the end."""
        if self._memory is not None:
            return self._packed
        found = hashlib.sha256()
        while block := file.read(BLOCK):
            found.update(block)
        return found.hexdigest()

    def _place(self, info: zipfile.ZipInfo) -> int:
        """Where in the file the bytes of a part begin."""
        header = os.pread(self._file.fileno(), LOCAL_HEADER, info.header_offset)
        name, extra = struct.unpack("<HH", header[-4:])
        return info.header_offset + LOCAL_HEADER + int(name) + int(extra)

    def _labels(self, archive: zipfile.ZipFile) -> IndexArray:
        with archive.open(LABELS) as file:
            shape, _, dtype = _header(file)
            if shape != (self._count,) or dtype.kind not in "iu":
                raise ValueError(
                    f"{self._key} must be an npz whose arr_1 holds one class number for each of its {self._count} "
                    f"images, got {dtype} {shape} in {str(self._path)!r}"
                )
            labels = np.frombuffer(file.read(), dtype)
        if labels.min() < 0 or labels.max() >= MOST_CLASSES:
            raise ValueError(
                f"{self._key}: the class numbers (arr_1) in {str(self._path)!r} must be 0 to {MOST_CLASSES - 1}, "
                f"got {labels.min()} to {labels.max()}"
            )
        return labels.astype(np.int64)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran_order, dtype = read(file)
    return shape, fortran_order, dtype
