"""The user's own pictures: a folder of images, or of one subfolder per class."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from diffusion_lab.data.contents import Content, Contents, content_of
from diffusion_lab.data.decoder_warnings import decoding, ignore_decoder_warnings
from diffusion_lab.data.folder_report import (
    report_left_out,
    report_others,
    reporting_decoder_warnings,
    what_is_expected,
    what_is_there_instead,
)
from diffusion_lab.data.layout import Layout, check_no_nested_classes, read_layout
from diffusion_lab.data.left_out import LeftOutPicture, OtherFiles, PictureTooLargeError, left_out_picture
from diffusion_lab.data.listing import Listing, list_images
from diffusion_lab.data.parallel import in_order
from diffusion_lab.data.pixels import (
    BYTES_A_PIXEL,
    MAX_PIXELS,
    background_colour,
    cut_square,
    opened_image,
    resize_and_crop,
    resize_to_strip,
    to_channels,
)
from diffusion_lab.data.source import HashArray, ImageSource, IndexArray, PixelArray
from diffusion_lab.safe_files import open_regular

CROPS = {"center": "center, bicubic", "random": "random, after resizing, bicubic"}
"""What a fingerprint calls each crop; another way of cutting or resizing gets another name."""

SMALL_FILE = 16 * 2**20
"""Bytes up to which a file is read into memory as a whole."""


_NO_FILES = Listing(Path(), b"", np.empty(0, np.int64), np.empty((0, 3), np.int64))


class ImageFolderSource(ImageSource):
    """The images under ``path``, listed at once and decoded when they are asked for.

    Class subfolders are numbered by their sorted names; images lie in them at any depth. A folder with
    images and no class subfolders has no classes. Hidden files and folders are left out, and so are those that file
    systems and archivers add. Files are known by their suffix, in any case, or without one by their first bytes.

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
        max_pixels: limit on the pixels of a picture; a larger one is left out like a corrupt one.
        labelled: whether the classes matter: a single subfolder that holds the class folders is refused then.
        key: the setting that ``path`` comes from, for messages.

    Attributes:
        paths: the files, in order (a path each, made when it is asked for).
        left_out: the pictures that this process has left out.
        others: the files beside the pictures.
        inner: the place and names of class folders inside a single subfolder; None where there are none.

    Raises:
        ValueError: no folder, no images, images beside class subfolders, a class that is not known, or the parts of a
            data set in place of classes.
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
        max_pixels: int = MAX_PIXELS,
        labelled: bool = False,
        key: str = "data.paths.train",
    ) -> None:
        self.path, self.key = Path(path), key
        self.image_size, self.channels = image_size, channels
        self.crop, self.background, self.on_corrupt = crop, background_colour(background), on_corrupt
        self.max_pixels = max_pixels
        self.left_out: list[LeftOutPicture] = []
        self._not_taken: list[LeftOutPicture] = []
        self.varies = crop == "random"
        self._corrupt: set[int] = set()
        self._contents: Contents | None = None
        if not self.path.is_dir():
            raise ValueError(f"{key} must be an existing folder of images, got {str(path)!r} (seen from {Path.cwd()})")
        layout = Layout({}, OtherFiles())
        if class_names is None or len(class_names):
            layout = read_layout(self.path, key)
            if labelled:
                check_no_nested_classes(self.path, key, layout)
        if class_names is None:
            class_names = list(layout.classes)
        self.class_names, self.inner = tuple(class_names), layout.inner
        self._refuse_unknown(layout.classes)
        if self.class_names:
            found, self.others = [layout.classes.get(name, _NO_FILES) for name in self.class_names], layout.others
        else:
            flat = list_images(self.path)
            found, self.others = [flat.images], flat.others
        self.paths = Listing.joined(self.path, found)
        if not self.paths:
            raise ValueError(
                f"{key} holds no images: {str(path)!r} has {what_is_there_instead(self.others)}; {what_is_expected()}"
            )
        self.labels = np.repeat(np.arange(len(found), dtype=np.int64), [len(files) for files in found])
        report_others(key, self.others)

    @property
    def skipped(self) -> int:
        """How many pictures this process has left out."""
        return len(self.left_out)

    def load(self, index: int, rng: np.random.Generator | None) -> PixelArray:
        """Image ``index`` as uint8 (C, S, S).

        In place of a corrupt file comes the next good one of the same class, so every other image keeps its
        place in the order.

        Raises:
            ValueError: the file is corrupt and ``on_corrupt`` is "error", or its class has no good image.
        """
        rng = rng if self.crop == "random" else None
        ignore_decoder_warnings()
        while True:
            chosen = self._good(index)
            try:
                return np.ascontiguousarray(cut_square(self.decode(chosen), self.image_size, rng))
            except Exception as error:  # Pillow's decoders raise nearly everything for a damaged file
                self._corrupt.add(chosen)
                self._leave_out({chosen: error})
                self._not_taken.append(self.left_out[-1])

    def take_left_out(self) -> list[LeftOutPicture]:
        taken, self._not_taken = self._not_taken, []
        return taken

    def decode(self, index: int) -> PixelArray:
        """What ``load`` cuts its square from, uint8: (C, S, S), or with random crops (C, H, W) of short side S.

        Damaged files raise nearly everything.
        """
        path = self.paths[index]
        with self._opened(path) as stream:
            return self._decoded(path, stream)

    def content(self, index: int) -> Content:
        """What the fingerprint knows a file by."""
        with self._opened(self.paths[index]) as stream:
            return content_of(stream)

    def content_and_decode(self, index: int) -> tuple[Content, PixelArray]:
        """What ``content`` and ``decode`` give, of a file opened once."""
        path = self.paths[index]
        with self._opened(path) as stream:
            pixels = self._decoded(path, stream)  # first, so that no more is read of what is no picture
            return content_of(stream), pixels

    def content_or_fault(self, index: int) -> Content | Exception:
        """What ``content`` gives of a file that can be decoded, else why it cannot."""
        try:
            return self.content_and_decode(index)[0]
        except Exception as error:  # as in load: nearly everything
            return error.with_traceback(None)  # which would keep the half decoded picture

    def fingerprint(self) -> str:
        """SHA-256 of the files and of what is done to them: not of where the folder lies.

        For each file in order its name inside the folder, its size and the SHA-256 of its content, read in parallel
        and not decoded; then the classes, size, channels, crop and background. Files that ``check`` has dropped are not
        in it.
        """
        return self.fingerprint_of(self._contents or in_order(self.content, len(self.paths)))

    def hashes(self) -> HashArray:
        """The SHA-256 of each file, (N, 32)."""
        if self._contents is None:
            self._contents = Contents()
            for content in in_order(self.content, len(self.paths)):
                self._contents.append(content)
        return self._contents.hashes()

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
        contents = Contents()
        with reporting_decoder_warnings(self.key):
            for index, found in enumerate(in_order(self.content_or_fault, len(self.paths))):
                if isinstance(found, Exception):
                    corrupt[index] = found
                else:
                    contents.append(found)
                if progress is not None:
                    progress(index + 1, len(self.paths))
        self.drop(corrupt)
        self._contents = contents

    def drop(self, corrupt: Mapping[int, Exception]) -> None:
        """Leave out the files that are known to be corrupt, by what was said of each; raises as ``check`` does."""
        if not corrupt:
            return
        if len(corrupt) == len(self.paths):
            first = left_out_picture(self.paths[min(corrupt)], corrupt[min(corrupt)])
            raise ValueError(
                f"{self.key}: none of the {len(corrupt)} images in {str(self.path)!r} can be decoded, as {first}"
            )
        self._leave_out(corrupt)
        good: IndexArray = np.delete(np.arange(len(self.paths)), list(corrupt))
        self.paths, self.labels = self.paths.kept(good), self.labels[good]
        self._corrupt.clear()
        self._contents = None

    @contextlib.contextmanager
    def _opened(self, path: Path) -> Iterator[BinaryIO]:
        """A file to read from; the small ones at once, because Pillow reads their headers by a few bytes at a time."""
        most = SMALL_FILE + 2 * BYTES_A_PIXEL * self.max_pixels
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > most:
                needed = -(-(size - SMALL_FILE) // (2 * BYTES_A_PIXEL))
                raise PictureTooLargeError(f"{size / 1e9:.1f} GB, which takes a data.max_pixels of {needed}")
            yield io.BytesIO(file.read(size)) if size <= SMALL_FILE else file

    def _decoded(self, path: Path, stream: BinaryIO) -> PixelArray:
        with decoding(path), opened_image(stream, self.image_size, self.max_pixels, path.suffix) as opened:
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

    def _leave_out(self, corrupt: Mapping[int, Exception]) -> None:
        found = [left_out_picture(self.paths[index], error) for index, error in corrupt.items()]
        report_left_out(self.key, found, self.max_pixels, fatal=self.on_corrupt == "error")
        self.left_out += found

    def _refuse_unknown(self, folders: Mapping[str, Listing]) -> None:
        unknown = [name for name in folders if name not in self.class_names]
        if unknown:
            raise ValueError(
                f"{self.key} must hold only classes that data.paths.train has "
                f"({', '.join(self.class_names)}), "
                f"got the folder(s) {', '.join(unknown)} in {str(self.path)!r}"
            )
        if self.class_names and not folders and list_images(self.path).images:
            raise ValueError(
                f"{self.key} must hold a subfolder for each class ({', '.join(self.class_names)}) "
                f"as data.paths.train does, got images alone in {str(self.path)!r}"
            )
