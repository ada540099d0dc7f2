"""Files of a cache: private to their owner, and read only if nobody else could have changed them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from diffusion_lab.files.reading import open_regular, parse_json

ABOUT = "about.json"
MAX_ABOUT_BYTES = 2**20
OTHERS_MAY_WRITE = 0o022

BLOCK = 4 * 2**20
"""Bytes of pixels under one checksum."""

CheckArray = NDArray[np.uint32]


class UntrustedCacheError(OSError):
    """Raised if another user owns a file of the cache, or may write it."""


def is_private(state: os.stat_result) -> bool:
    """Return whether a file or folder belongs to this user and nobody else may write it."""
    return state.st_uid == os.geteuid() and not state.st_mode & OTHERS_MAY_WRITE


def open_private(path: Path) -> BinaryIO:
    """Open a regular file that this user owns and nobody else may write.

    Raises:
        UntrustedCacheError: Another user owns it or may write it.
        OSError: It is missing, not a regular file, or cannot be read.
    """
    stream = open_regular(path)
    if not is_private(os.fstat(stream.fileno())):
        stream.close()
        raise UntrustedCacheError(f"{path} belongs to another user, or others may write it")
    return stream


class CheckedWriter:
    """Write to a stream, and compute a checksum (CRC-32) of each BLOCK of bytes."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._checksums = stream, [0]
        self._space = BLOCK

    def write(self, pixels: memoryview) -> None:
        self._stream.write(pixels)
        rest = pixels.cast("B")
        while rest:
            if not self._space:
                self._checksums.append(0)
                self._space = BLOCK
            part = rest[: self._space]
            self._checksums[-1] = zlib.crc32(part, self._checksums[-1])
            self._space -= len(part)
            rest = rest[len(part) :]

    def checks(self) -> CheckArray:
        """Return the checksums of the blocks so far."""
        return np.array(self._checksums, np.uint32)


def first_damaged_block(descriptor: int, checks: CheckArray) -> int | None:
    """Compare a file of pixels with its checksums; returns the number of the first block that differs."""
    for number, expected in enumerate(checks.tolist()):
        if zlib.crc32(os.pread(descriptor, BLOCK, number * BLOCK)) != expected:
            return number
    return None


def write_about(folder: Path, about: Mapping[str, Any]) -> None:
    """Write the description of a cache, with hashes of its small files and of the description itself."""
    small = {file.name: _sha256(file.read_bytes()) for file in sorted(folder.glob("*.npy"))}
    content = {**about, "sha256": small}
    (folder / ABOUT).write_text(json.dumps({**content, "checksum": _checksum(content)}, indent=2) + "\n")
    for file in folder.iterdir():
        file.chmod(0o600)


def read_about(folder: Path) -> dict[str, Any]:
    """Read the description of a cache.

    Raises:
        ValueError: It is damaged.
        OSError: It is missing, or another user may have written it.
    """
    with open_private(folder / ABOUT) as stream:
        content = parse_json(stream.read(MAX_ABOUT_BYTES), str(folder / ABOUT))
    if not isinstance(content, dict) or content.pop("checksum", None) != _checksum(content):
        raise ValueError(f"{folder / ABOUT} is damaged")
    return content


def read_array(folder: Path, name: str, about: Mapping[str, Any]) -> NDArray[Any]:
    """Read one of the small files. Raises as ``read_about`` does."""
    with open_private(folder / name) as stream:
        content = stream.read()
    if _sha256(content) != about["sha256"].get(name):
        raise ValueError(f"{folder / name} is damaged")
    array: NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
    return array


def _checksum(content: Mapping[str, Any]) -> str:
    return _sha256(json.dumps(content, sort_keys=True).encode())


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
