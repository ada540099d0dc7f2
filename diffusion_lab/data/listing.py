"""Which image files lie in a folder: sorted, with size and time, at some tens of bytes a file."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import overload

import numpy as np

from diffusion_lab.data.source import IndexArray

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


class Listing(Sequence[Path]):
    """The files of a folder in order. A list of a million paths would take 300 MB, and each worker a copy of it.

    Args:
        root: the folder.
        names: the names of all files below it, one after the other, as the file system has them.
        ends: where each name ends in ``names``.
        stats: size in bytes and time of the last change in ns, (N, 2); -1 where the file cannot be looked at.
    """

    def __init__(self, root: Path, names: bytes, ends: IndexArray, stats: IndexArray) -> None:
        self.root, self._names, self._ends, self._stats = root, names, ends, stats

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> list[Path]: ...
    def __getitem__(self, index: int | slice) -> Path | list[Path]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)  # which ends a loop over the files
        return self.root / os.fsdecode(self.name(index % len(self)))

    def name(self, index: int) -> bytes:
        """Name of a file inside the folder, from 0 on, its parts divided by /."""
        start = self._ends[index - 1] if index else 0
        return self._names[start : self._ends[index]]

    def kept(self, indices: IndexArray) -> Listing:
        """These files alone."""
        names = [self.name(int(index)) for index in indices]
        return Listing(self.root, b"".join(names), _ends(map(len, names)), self._stats[indices])

    def digest(self) -> str:
        """SHA-256 of names, sizes and times: another one as soon as a file is added, removed, renamed or changed."""
        found = hashlib.sha256(self._names)
        for numbers in (self._ends, self._stats):
            found.update(np.ascontiguousarray(numbers).data)
        return found.hexdigest()

    @staticmethod
    def joined(root: Path, parts: Sequence[Listing]) -> Listing:
        """The files of several listings of the same root, one after the other."""
        names = b"".join(part._names for part in parts)
        offsets = np.cumsum([0, *(len(part._names) for part in parts)])
        ends = [part._ends + offset for part, offset in zip(parts, offsets, strict=False)]
        stats = [part._stats for part in parts]
        none = np.empty(0, np.int64)
        return Listing(root, names, np.concatenate([none, *ends]), np.concatenate([none.reshape(0, 2), *stats]))


def list_images(root: Path, below: str = "") -> Listing:
    """All image files in the subfolder ``below`` of ``root`` and at any depth under it, sorted by path.

    Hidden files and folders are left out, and so are folders that are links.
    """
    names, lengths, stats = bytearray(), array("q"), array("q")
    waiting = [below]  # names of folders and files still to come, the next one last
    while waiting:
        name = waiting.pop()
        place = os.path.join(root, name)
        told = _looked_at(place)
        if told is not None and stat.S_ISDIR(told.st_mode):
            if name == below or not os.path.islink(place):
                waiting += sorted(_inside(place, name), reverse=True)
        elif is_image(name):
            encoded = os.fsencode(name)
            names += encoded
            lengths.append(len(encoded))
            stats.extend((told.st_size, told.st_mtime_ns) if told else (-1, -1))
    return Listing(root, bytes(names), _ends(lengths), np.frombuffer(stats.tobytes(), np.int64).reshape(-1, 2))


def is_image(name: str) -> bool:
    """Whether a file is taken for an image: by its suffix, in capitals or not, unless it is hidden."""
    base = os.path.basename(name)
    return os.path.splitext(base)[1].lower() in SUFFIXES and not base.startswith(".")


def _inside(place: str, name: str) -> list[str]:
    """What a folder holds and is not hidden; nothing where it may not be read."""
    prefix = f"{name}/" if name else ""
    with contextlib.suppress(OSError):
        return [prefix + entry for entry in os.listdir(place) if not entry.startswith(".")]
    return []


def _looked_at(place: str) -> os.stat_result | None:
    with contextlib.suppress(OSError):
        return os.stat(place)
    return None


def _ends(lengths: Iterable[int]) -> IndexArray:
    return np.cumsum(np.fromiter(lengths, np.int64), dtype=np.int64)
