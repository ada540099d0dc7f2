"""Which image files lie in a folder: sorted, with size and time, at some tens of bytes a file."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from array import array
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np

from diffusion_lab.data.formats import is_picture
from diffusion_lab.data.left_out import OtherFiles
from diffusion_lab.data.source import IndexArray


class Listing(Sequence[Path]):
    """The files of a folder in order. A list of a million paths would take 300 MB, and each worker a copy of it.

    Args:
        root: the folder.
        names: the names of all files below it, one after the other, as the file system has them.
        ends: where each name ends in ``names``.
        stats: size in bytes, time of the last change of the content and that of any change in ns, (N, 3); -1 where
            the file cannot be looked at. Anyone may set the second; the third is the system's alone.
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
        """SHA-256 of names, sizes and times: another one as soon as a file is added, removed, renamed or changed.

        A file that was replaced by one of the same size, its time set back, has another time of its last change of any
        kind.
        """
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
        return Listing(root, names, np.concatenate([none, *ends]), np.concatenate([none.reshape(0, 3), *stats]))


IGNORED_FOLDERS = frozenset(
    {"@eadir", "@recycle", "#recycle", "$recycle.bin", "__macosx", "lost+found", "system volume information"}
)
"""Folders that file systems, archivers and network drives add by themselves, in small letters."""

IGNORED_FILES = frozenset({"desktop.ini", "ehthumbs.db", "thumbs.db"})


def is_ignored(name: str) -> bool:
    """Whether a file or folder of this name is passed over in silence: hidden, or put there by some system."""
    small = name.lower()
    return name.startswith(".") or small in IGNORED_FOLDERS or small in IGNORED_FILES


class Found(NamedTuple):
    """What lies in a folder."""

    images: Listing
    others: OtherFiles


def list_images(root: Path, below: str = "") -> Found:
    """All image files in the subfolder ``below`` of ``root`` and at any depth under it, sorted by path.

    Hidden files and folders and those of ``is_ignored`` are left out. Links to folders are followed, each folder once:
    one that is also there without a link goes by its own name, and a link to a folder around it leads nowhere.
    """
    walk = _Walk(root, below)
    walk.folder(below)
    while walk.links:
        walk.link(walk.links.popleft())
    return Found(walk.listing(), walk.others)


class _Walk:
    """One pass through a folder.

    Attributes:
        links: Links to folders that are still to be followed.
        others: What is no picture.
    """

    def __init__(self, root: Path, below: str) -> None:
        self.root, self._top = root, os.fspath(root)
        self.links: deque[str] = deque()
        self.others = OtherFiles()
        self._names, self._lengths, self._stats = bytearray(), array("q"), array("q")
        self._seen: set[tuple[int, int]] = set()
        top = root.resolve()
        self._around = {top, *top.parents, *Path(os.path.join(root, below)).resolve().parents}
        self._sorted = True

    def folder(self, name: str) -> None:
        """Take in a folder and all under it, links to folders excepted."""
        waiting = [(name, False)]  # names of folders and files still to come, the next one last
        while waiting:
            name, linked = waiting.pop()
            place = os.path.join(self._top, name)
            state = _looked_at(place)
            if state is None or not stat.S_ISDIR(state.st_mode):
                self._file(name, place, state)
            elif linked:
                self.links.append(name)
            elif self._is_new(state):
                waiting += sorted(self._inside(name), reverse=True)

    def link(self, name: str) -> None:
        """Take in what a link to a folder leads to, unless it was there before."""
        while self._around:  # from now on they are known
            if (state := _looked_at(str(self._around.pop()))) is not None:
                self._is_new(state)
        before = len(self._lengths)
        self.folder(name)
        self._sorted &= len(self._lengths) == before

    def listing(self) -> Listing:
        stats = np.frombuffer(self._stats.tobytes(), np.int64).reshape(-1, 3)
        found = Listing(self.root, bytes(self._names), _ends(self._lengths), stats)
        if self._sorted:
            return found
        order = sorted(range(len(found)), key=lambda index: found.name(index).split(b"/"))
        return found.kept(np.array(order, np.int64))

    def _file(self, name: str, place: str, state: os.stat_result | None) -> None:
        if not is_picture(place):
            self.others.add(name, os.path.splitext(name)[1].lower())
            return
        encoded = os.fsencode(name)
        self._names += encoded
        self._lengths.append(len(encoded))
        self._stats.extend((state.st_size, state.st_mtime_ns, state.st_ctime_ns) if state else (-1, -1, -1))

    def _is_new(self, state: os.stat_result) -> bool:
        known = (state.st_dev, state.st_ino)
        new = known not in self._seen
        self._seen.add(known)
        return new

    def _inside(self, name: str) -> list[tuple[str, bool]]:
        """What a folder holds, and whether it is a link."""
        prefix = f"{name}/" if name else ""
        try:
            with os.scandir(os.path.join(self._top, name)) as entries:
                return [(prefix + entry.name, entry.is_symlink()) for entry in entries if not is_ignored(entry.name)]
        except OSError:
            self.others.unreadable.append(name or str(self.root))
            return []


def _looked_at(place: str) -> os.stat_result | None:
    with contextlib.suppress(OSError):
        return os.stat(place)
    return None


def _ends(lengths: Iterable[int]) -> IndexArray:
    return np.cumsum(np.fromiter(lengths, np.int64), dtype=np.int64)
