"""Listing of the image files in a folder: sorted, with sizes and times, at a few dozen bytes per file."""

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

from diffusion_lab.data.formats import is_image_file
from diffusion_lab.data.skipped_images import OtherFiles
from diffusion_lab.data.source import IndexArray


class Listing(Sequence[Path]):
    """Files of a folder in order, stored compactly: a list of a million paths would take 300 MB in each worker.

    Args:
        root: the folder.
        names: the concatenated names of all files below it, as in the file system.
        ends: end of each name in ``names``.
        stats: size in bytes, modification time (mtime) and status change time (ctime) in ns, (N, 3); -1 if the file
            cannot be accessed. Users can set the mtime; only the system sets the ctime.
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
        """Return the path of file ``index``, from 0, inside the folder, with parts separated by /."""
        start = self._ends[index - 1] if index else 0
        return self._names[start : self._ends[index]]

    def select(self, indices: IndexArray) -> Listing:
        """Return a listing of only these files."""
        names = [self.name(int(index)) for index in indices]
        return Listing(self.root, b"".join(names), _ends(map(len, names)), self._stats[indices])

    def digest(self) -> str:
        """Return the SHA-256 of names, sizes and times, which changes if a file is added, removed, renamed or changed.

        A file replaced by one of the same size with its mtime reset has a different ctime.
        """
        digest = hashlib.sha256(self._names)
        for numbers in (self._ends, self._stats):
            digest.update(np.ascontiguousarray(numbers).data)
        return digest.hexdigest()

    @staticmethod
    def joined(root: Path, parts: Sequence[Listing]) -> Listing:
        """Concatenate several listings of the same root."""
        names = b"".join(part._names for part in parts)
        offsets = np.cumsum([0, *(len(part._names) for part in parts)])
        ends = [part._ends + offset for part, offset in zip(parts, offsets, strict=False)]
        stats = [part._stats for part in parts]
        none = np.empty(0, np.int64)
        return Listing(root, names, np.concatenate([none, *ends]), np.concatenate([none.reshape(0, 3), *stats]))


IGNORED_FOLDERS = frozenset(
    {"@eadir", "@recycle", "#recycle", "$recycle.bin", "__macosx", "lost+found", "system volume information"}
)
"""Folders that file systems, archivers and network drives add, in lower case."""

IGNORED_FILES = frozenset({"desktop.ini", "ehthumbs.db", "thumbs.db"})


def is_ignored(name: str) -> bool:
    """Return whether a file or folder of this name is ignored silently: hidden, or added by some system."""
    lower = name.lower()
    return name.startswith(".") or lower in IGNORED_FOLDERS or lower in IGNORED_FILES


class FolderContents(NamedTuple):
    """Files in a folder."""

    images: Listing
    others: OtherFiles


def list_images(root: Path, below: str = "") -> FolderContents:
    """List all image files in the subfolder ``below`` of ``root``, at any depth, sorted by path.

    Files and folders for which ``is_ignored`` is true are skipped. Links to folders are followed, each folder once:
    a folder that is also there without a link has its own name, and a link to a parent folder is ignored.
    """
    scan = _FolderScan(root, below)
    scan.folder(below)
    while scan.links:
        scan.link(scan.links.popleft())
    return FolderContents(scan.listing(), scan.others)


class _FolderScan:
    """Scan of a folder.

    Attributes:
        links: Links to folders that are still to be followed.
        others: Files that are not images.
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
        """Add a folder and everything below it, except links to folders."""
        waiting = [(name, False)]  # names of remaining folders and files, the next one last
        while waiting:
            name, linked = waiting.pop()
            path = os.path.join(self._top, name)
            state = _stat(path)
            if state is None or not stat.S_ISDIR(state.st_mode):
                self._file(name, path, state)
            elif linked:
                self.links.append(name)
            elif self._is_new(state):
                waiting += sorted(self._entries(name), reverse=True)

    def link(self, name: str) -> None:
        """Add the target of a link to a folder, unless it was added before."""
        while self._around:  # parent folders count as seen from now on
            if (state := _stat(str(self._around.pop()))) is not None:
                self._is_new(state)
        before = len(self._lengths)
        self.folder(name)
        self._sorted &= len(self._lengths) == before

    def listing(self) -> Listing:
        stats = np.frombuffer(self._stats.tobytes(), np.int64).reshape(-1, 3)
        listing = Listing(self.root, bytes(self._names), _ends(self._lengths), stats)
        if self._sorted:
            return listing
        order = sorted(range(len(listing)), key=lambda index: listing.name(index).split(b"/"))
        return listing.select(np.array(order, np.int64))

    def _file(self, name: str, path: str, state: os.stat_result | None) -> None:
        if not is_image_file(path):
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

    def _entries(self, name: str) -> list[tuple[str, bool]]:
        """Return the entries of a folder, and whether each is a link."""
        prefix = f"{name}/" if name else ""
        try:
            with os.scandir(os.path.join(self._top, name)) as entries:
                return [(prefix + entry.name, entry.is_symlink()) for entry in entries if not is_ignored(entry.name)]
        except OSError:
            self.others.unreadable.append(name or str(self.root))
            return []


def _stat(path: str) -> os.stat_result | None:
    with contextlib.suppress(OSError):
        return os.stat(path)
    return None


def _ends(lengths: Iterable[int]) -> IndexArray:
    return np.cumsum(np.fromiter(lengths, np.int64), dtype=np.int64)
