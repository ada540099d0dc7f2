"""Sizes and content hashes of image files, for fingerprints."""

from __future__ import annotations

import hashlib
import io
import os
from array import array
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple, cast

import numpy as np

from diffusion_lab.data.source import HashArray

HASH_BYTES = 32


class Content(NamedTuple):
    """Size in bytes and SHA-256 of a file."""

    size: int
    sha256: bytes


class Contents:
    """Sizes and hashes of many files in order, at 40 bytes per file."""

    def __init__(self) -> None:
        self._sizes, self._sha256 = array("q"), bytearray()

    def append(self, content: Content) -> None:
        self._sizes.append(content.size)
        self._sha256 += content.sha256

    def __iter__(self) -> Iterator[Content]:
        for index, size in enumerate(self._sizes):
            yield Content(size, bytes(self._sha256[HASH_BYTES * index : HASH_BYTES * (index + 1)]))

    def hashes(self) -> HashArray:
        """Return the SHA-256 of each file, (N, 32)."""
        return np.frombuffer(bytes(self._sha256), np.uint8).reshape(-1, HASH_BYTES)


def content_of(stream: BinaryIO) -> Content:
    """Return the size and hash of a file, read from its start."""
    stream.seek(0)
    sha256 = hashlib.file_digest(cast("io.BytesIO", stream), "sha256").digest()  # accepts any open file
    return Content(stream.seek(0, os.SEEK_END), sha256)
