"""The user's own pictures: a folder of images, or of one subfolder per class."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import numpy as np

from diffusion_lab.data.listing import SUFFIXES, Listing, is_image, list_images
from diffusion_lab.data.parallel import in_order
from diffusion_lab.data.pixels import (
    background_colour,
    cut_square,
    opened_image,
    resize_and_crop,
    resize_to_strip,
    to_channels,
)
from diffusion_lab.data.source import ImageSource, IndexArray, PixelArray

CROPS = {"center": "center, bicubic", "random": "random, after resizing, bicubic"}
"""What a fingerprint calls each crop; another way of cutting or resizing gets another name."""

SMALL_FILE = 16 * 2**20
"""Bytes up to which a file is read into memory as a whole."""

NAMED_FILES = 10  # how many corrupt files a message lists before it only counts


class Content(NamedTuple):
    """Size in bytes and SHA-256 of a file."""

    size: int
    sha256: bytes


_NO_FILES = Listing(Path(), b"", np.empty(0, np.int64), np.empty((0, 2), np.int64))


class ImageFolderSource(ImageSource):
    """The images under ``path``, listed at once and decoded when they are asked for.

    Class subfolders are numbered by their sorted names; images lie in them at any depth. A folder with
    images and no class subfolders has no classes. Hidden files and folders are left out. Files are known
    by their suffix (``SUFFIXES``, any case).

    Args:
        path: the folder.
        image_size: side S of the images that come out.
        channels: 1 (gray), 3 (RGB) or 4 (RGBA).
        class_names: the classes to number by (those of the training folder, () if it has none); None to
            find them. A class without a folder is fine, a folder that is no class is not.
        crop: which square of an image with unequal sides: the middle, or a random one (where ``load``
            gets an rng).
        background: colour under transparent pixels, a name or ``#rrggbb``.
        on_corrupt: what an image that cannot be decoded does: it is left out and counted, or it is an error.
        key: the setting that ``path`` comes from, for messages.

    Attributes:
        paths: the files, in order (a path each, made when it is asked for).
        skipped: how many corrupt files this process has left out.

    Raises:
        ValueError: no folder, no images, images beside class subfolders, or a class that is not known.
    """

    def __init__(
        self,
        path: Path | str,
        image_size: int,
        channels: int,
        class_names: Sequence[str] | None = None,
        crop: Literal["center", "random"] = "center",
        background: str = "white",
        on_corrupt: Literal["skip", "error"] = "skip",
        key: str = "data.paths.train",
    ) -> None:
        self.path, self.key = Path(path), key
        self.image_size, self.channels = image_size, channels
        self.crop, self.background, self.on_corrupt = crop, background_colour(background), on_corrupt
        self.skipped = 0
        self.varies = crop == "random"
        self._corrupt: set[int] = set()
        if not self.path.is_dir():
            raise ValueError(f"{key} must be an existing folder of images, got {str(path)!r} (seen from {Path.cwd()})")
        folders = self._class_folders() if class_names is None or len(class_names) else {}
        if class_names is None:
            class_names = sorted(folders)
        self.class_names = tuple(class_names)
        self._refuse_unknown(folders)
        found = [folders.get(name, _NO_FILES) for name in self.class_names] or [list_images(self.path)]
        self.paths = Listing.joined(self.path, found)
        if not self.paths:
            raise ValueError(f"{key} holds no images: {str(path)!r} has {_contents(self.path)}; {_expected()}")
        self.labels = np.repeat(np.arange(len(found), dtype=np.int64), [len(files) for files in found])

    def load(self, index: int, rng: np.random.Generator | None) -> PixelArray:
        """Image ``index`` as uint8 (C, S, S).

        In place of a corrupt file comes the next good one of the same class, so every other image keeps its
        place in the order.

        Raises:
            ValueError: the file is corrupt and ``on_corrupt`` is "error", or its class has no good image.
        """
        rng = rng if self.crop == "random" else None
        while True:
            chosen = self._good(index)
            try:
                return np.ascontiguousarray(cut_square(self.decode(chosen), self.image_size, rng))
            except Exception as error:  # Pillow's decoders raise nearly everything for a damaged file
                self._corrupt.add(chosen)
                self._report([(self.paths[chosen], error)])

    def decode(self, index: int) -> PixelArray:
        """What ``load`` cuts its square from, uint8: (C, S, S), or with random crops (C, H, W) of short side S.

        Damaged files raise nearly everything.
        """
        with _opened(self.paths[index]) as stream:
            return self._decoded(stream)

    def fault(self, index: int) -> Exception | None:
        """Why a file cannot be decoded; None where it can."""
        try:
            self.decode(index)
        except Exception as error:  # as in load: nearly everything
            return error.with_traceback(None)  # which would keep the half decoded picture
        return None

    def content(self, index: int) -> Content:
        """What the fingerprint knows a file by."""
        with _opened(self.paths[index]) as stream:
            return _content(stream)

    def content_and_decode(self, index: int) -> tuple[Content, PixelArray]:
        """What ``content`` and ``decode`` give, of a file opened once."""
        with _opened(self.paths[index]) as stream:
            content = _content(stream)
            stream.seek(0)
            return content, self._decoded(stream)

    def fingerprint(self) -> str:
        """SHA-256 of the files and of what is done to them: not of where the folder lies.

        For each file in order its name inside the folder, its size and the SHA-256 of its content, read in parallel
        and not decoded; then the classes, size, channels, crop and background. Files that ``check`` has dropped are not
        in it.
        """
        return self.fingerprint_of(in_order(self.content, len(self.paths)))

    def fingerprint_of(self, contents: Iterable[Content]) -> str:
        """The fingerprint, by what is already known of the files in order."""
        found = self._hash_of_classes()
        found.update(repr((CROPS[self.crop], self.background)).encode())
        for index, (size, sha256) in enumerate(contents):
            found.update(b"%s\0%d\0%s\n" % (self.paths.name(index), size, sha256.hex().encode()))
        return found.hexdigest()

    def check(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Decode every file once and drop those that cannot be, naming and counting them in one warning.

        To be called before indices are handed out (they change), and before anything of a run is written.
        ``progress`` is told (files done, files in all).

        Raises:
            ValueError: a file is corrupt and ``on_corrupt`` is "error", or no good file is left.
        """
        corrupt: dict[int, Exception] = {}
        for index, error in enumerate(in_order(self.fault, len(self.paths))):
            if error is not None:
                corrupt[index] = error
            if progress is not None:
                progress(index + 1, len(self.paths))
        self.drop(corrupt)

    def drop(self, corrupt: Mapping[int, Exception]) -> None:
        """Leave out the files that are known to be corrupt, by what was said of each; raises as ``check`` does."""
        if not corrupt:
            return
        if len(corrupt) == len(self.paths):
            raise ValueError(f"{self.key}: none of the {len(corrupt)} images in {str(self.path)!r} can be decoded")
        self._report([(self.paths[index], error) for index, error in corrupt.items()])
        good: IndexArray = np.delete(np.arange(len(self.paths)), list(corrupt))
        self.paths, self.labels = self.paths.kept(good), self.labels[good]
        self._corrupt.clear()

    def _decoded(self, stream: BinaryIO) -> PixelArray:
        with opened_image(stream, self.image_size) as opened:
            image = to_channels(opened, self.channels, self.background)
            resized = resize_to_strip if self.crop == "random" else resize_and_crop
            return resized(image, self.image_size)

    def _good(self, index: int) -> int:
        """``index``, or in its place the next image of its class that is not known to be corrupt."""
        if index not in self._corrupt:
            return index
        same_class = np.flatnonzero(self.labels == self.labels[index])
        for member in np.roll(same_class, -int(np.searchsorted(same_class, index))).tolist():
            if member not in self._corrupt:
                return int(member)
        raise ValueError(f"{self.key}: every image of the class of {self.paths[index]} is corrupt")

    def _report(self, corrupt: Sequence[tuple[Path, Exception]]) -> None:
        """One message for all: an error, or a warning and their number added to ``skipped``."""
        lines = [f"  {file}: {type(error).__name__}: {error}" for file, error in corrupt[:NAMED_FILES]]
        if len(corrupt) > NAMED_FILES:
            lines.append(f"  and {len(corrupt) - NAMED_FILES} more")
        listing = "\n".join(lines)
        if self.on_corrupt == "error":
            raise ValueError(
                f"{self.key}: {len(corrupt)} corrupt image(s), and data.on_corrupt = error "
                f"(skip to leave them out):\n{listing}"
            ) from corrupt[0][1]
        self.skipped += len(corrupt)
        warnings.warn(f"{self.key}: {len(corrupt)} corrupt image(s) skipped:\n{listing}", UserWarning, stacklevel=3)

    def _class_folders(self) -> dict[str, Listing]:
        """The images of each class subfolder; {} for a flat folder."""
        subfolders = [entry.name for entry in os.scandir(self.path) if entry.is_dir() and entry.name[0] != "."]
        folders = {name: list_images(self.path, name) for name in sorted(subfolders)}
        filled = {name: files for name, files in folders.items() if files}
        if not filled:
            return {}
        loose = sorted(entry.name for entry in os.scandir(self.path) if is_image(entry.name) and entry.is_file())
        if loose:
            raise ValueError(
                f"{self.key} must hold either class subfolders or images, not both: {str(self.path)!r} has "
                f"the subfolder(s) {', '.join(filled)} and {len(loose)} image(s) such as {loose[0]}"
            )
        if len(filled) < len(folders):
            empty = ", ".join(name for name in folders if name not in filled)
            warnings.warn(f"{self.key}: no images in {empty}; not taken for a class", UserWarning, stacklevel=4)
        return filled

    def _refuse_unknown(self, folders: Mapping[str, Listing]) -> None:
        unknown = [name for name in folders if name not in self.class_names]
        if unknown:
            raise ValueError(
                f"{self.key} must hold only classes that data.paths.train has "
                f"({', '.join(self.class_names)}), "
                f"got the folder(s) {', '.join(unknown)} in {str(self.path)!r}"
            )
        if self.class_names and not folders and list_images(self.path):
            raise ValueError(
                f"{self.key} must hold a subfolder for each class ({', '.join(self.class_names)}) "
                f"as data.paths.train does, got images alone in {str(self.path)!r}"
            )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[io.BytesIO | io.BufferedReader]:
    """A file to read from; the small ones at once, because Pillow reads their headers by a few bytes at a time."""
    with path.open("rb", buffering=0) as file:
        small = os.fstat(file.fileno()).st_size <= SMALL_FILE
        yield io.BytesIO(file.read()) if small else io.BufferedReader(file)


def _content(stream: io.BytesIO | io.BufferedReader) -> Content:
    sha256 = hashlib.file_digest(stream, "sha256").digest()
    return Content(stream.seek(0, os.SEEK_END), sha256)


def _contents(folder: Path) -> str:
    """What a folder without images holds instead."""
    kinds = Counter(file.suffix.lower() or "no suffix" for file in folder.rglob("*") if file.is_file())
    if not kinds:
        return "no files"
    return "only " + ", ".join(f"{count} × {kind}" for kind, count in kinds.most_common(5))


def _expected() -> str:
    return f"expected files ending in {', '.join(sorted(SUFFIXES))}, in class subfolders or directly"
