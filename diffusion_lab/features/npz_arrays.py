"""Images and labels in an npz file of the ADM evaluation suite, read from disk one at a time."""

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

MAX_CLASSES = 100_000
"""Upper limit of class numbers; larger integers are refused as labels."""

STATISTICS = {"mu.npy", "sigma.npy"}
"""Arrays of files that contain only mean and covariance of Inception features."""

BLOCK = 2**20
LOCAL_HEADER = 30
"""Bytes of a zip header before the name; the last four are the lengths of name and extra field."""


class NpzImages:
    """Images by index, ``(H, W, C)`` uint8. The complete file is read once to verify its checksums.

    Args:
        path: File with ``arr_0`` uint8 ``(N, H, W, C)`` or ``(N, H, W)``, optionally ``arr_1`` integers ``(N,)``.
        key: Setting or argument of the images, for error messages.

    Attributes:
        shape: Height, width and channels of the images.
        labels: Class numbers ``(N,)``; None if the file has none.
        sha256: Hash of the images, in hexadecimal.

    Raises:
        ValueError: The file is damaged or has another layout.
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
            # a damaged directory or header causes various errors in zipfile and numpy
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
            raise ValueError(f"{self._key}: {str(self._path)!r} was truncated after it was opened")
        return np.frombuffer(bytearray(content), np.uint8).reshape(self.shape)

    def _read(self, archive: zipfile.ZipFile) -> None:
        names = set(archive.namelist())
        if IMAGES not in names:
            content = (
                "only the statistics of Inception features" if names >= STATISTICS else ", ".join(sorted(names)[:6])
            )
            raise ValueError(
                f"{self._key} must be an npz that holds the images as arr_0, got {str(self._path)!r}, which holds "
                f"{content}"
            )
        info = archive.getinfo(IMAGES)
        with archive.open(info) as file:
            self._count, *shape = self._read_shape(file, info)
            height, width, channels = (*shape, 1)[:3]
            self.shape = (height, width, channels)
            header = file.tell()
            self._memory = None if info.compress_type == zipfile.ZIP_STORED else self._load_compressed(file, info)
            self.sha256 = self._remaining_sha256(file)
        self._start = self._data_offset(info) + header
        self.labels = self._read_labels(archive) if LABELS in names else None

    def _read_shape(self, file: IO[bytes], info: zipfile.ZipInfo) -> tuple[int, ...]:
        shape, fortran_order, dtype = _read_header(file)
        if dtype != np.uint8 or fortran_order or len(shape) not in (3, 4) or (*shape, 1)[3] not in (1, 3, 4):
            raise ValueError(
                f"{self._key} must be an npz with arr_0 uint8 (images, height, width, channels) of 1, 3 or 4 channels, "
                f"got {dtype} {shape} in {str(self._path)!r}"
            )
        if min(shape) < 1 or math.prod(shape) != info.file_size - file.tell():
            raise ValueError(f"{self._key}: arr_0 in {str(self._path)!r} is empty, or damaged: {shape} does not fit it")
        return shape

    def _load_compressed(self, file: IO[bytes], info: zipfile.ZipInfo) -> PixelArray:
        """Return all images of a compressed file, which cannot be read one at a time."""
        if info.file_size > host_memory() / 2:
            raise ValueError(
                f"{self._key}: {str(self._path)!r} is compressed, so all {info.file_size / 1e9:.1f} GB would have to "
                "be in memory: save it with numpy.savez, which does not compress"
            )
        content = file.read()
        self._compressed_sha256 = hashlib.sha256(content).hexdigest()
        return np.frombuffer(bytearray(content), np.uint8).reshape(self._count, *self.shape)

    def _remaining_sha256(self, file: IO[bytes]) -> str:
        """Return the SHA-256 of the remaining bytes of an array; zipfile verifies its checksum at the end."""
        if self._memory is not None:
            return self._compressed_sha256
        sha256 = hashlib.sha256()
        while block := file.read(BLOCK):
            sha256.update(block)
        return sha256.hexdigest()

    def _data_offset(self, info: zipfile.ZipInfo) -> int:
        """Return the offset in the file of the bytes of an array."""
        header = os.pread(self._file.fileno(), LOCAL_HEADER, info.header_offset)
        name, extra = struct.unpack("<HH", header[-4:])
        return info.header_offset + LOCAL_HEADER + int(name) + int(extra)

    def _read_labels(self, archive: zipfile.ZipFile) -> IndexArray:
        with archive.open(LABELS) as file:
            shape, _, dtype = _read_header(file)
            if shape != (self._count,) or dtype.kind not in "iu":
                raise ValueError(
                    f"{self._key} must be an npz whose arr_1 holds one class number for each of its {self._count} "
                    f"images, got {dtype} {shape} in {str(self._path)!r}"
                )
            labels = np.frombuffer(file.read(), dtype)
        if labels.min() < 0 or labels.max() >= MAX_CLASSES:
            raise ValueError(
                f"{self._key}: the class numbers (arr_1) in {str(self._path)!r} must be 0 to {MAX_CLASSES - 1}, "
                f"got {labels.min()} to {labels.max()}"
            )
        return labels.astype(np.int64)


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran_order, dtype = read(file)
    return shape, fortran_order, dtype
