"""Image folders: images directly in a folder, or in one subfolder per class."""

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
    describe_contents,
    describe_expected_files,
    report_decoder_warnings,
    report_other_files,
    report_skipped,
)
from diffusion_lab.data.layout import Layout, check_no_nested_classes, read_layout
from diffusion_lab.data.listing import Listing, list_images
from diffusion_lab.data.parallel import map_in_order
from diffusion_lab.data.pixels import (
    BYTES_PER_PIXEL,
    MAX_PIXELS,
    background_colour,
    cut_square,
    decode_image,
    resize_and_crop,
    resize_to_strip,
    to_channels,
)
from diffusion_lab.data.skipped_images import ImageTooLargeError, OtherFiles, SkippedImage, skipped_image
from diffusion_lab.data.source import HashArray, ImageSource, IndexArray, PixelArray
from diffusion_lab.files.reading import open_regular

CROPS = {"center": "center, bicubic", "random": "random, after resizing, bicubic"}
"""Name of each crop in a fingerprint; another method of cropping or resizing gets another name."""

SMALL_FILE = 16 * 2**20
"""Maximum bytes of a file that is read into memory at once."""


_NO_FILES = Listing(Path(), b"", np.empty(0, np.int64), np.empty((0, 3), np.int64))


class ImageFolderSource(ImageSource):
    """Source of the images under ``path``, listed once and decoded on demand.

    Class subfolders are numbered by their sorted names; images may be at any depth inside them. A folder with images
    and without class subfolders has no classes. Hidden files and folders are ignored, as are those that file systems
    and archivers add. Files are recognized by their suffix, in any case, or without one by their first bytes.

    Args:
        path: the folder.
        image_size: side S of the output images.
        channels: 1 (gray), 3 (RGB) or 4 (RGBA).
        class_names: the classes to number by (those of the training folder, () if it has none); None to
            detect them. A class may have no folder, but a folder must be a class.
        crop: square to crop from a non-square image: the centre, or a random one (if ``load`` gets an rng).
        background: colour under transparent pixels, a name or ``#rrggbb``.
        on_corrupt: whether an image that cannot be decoded is skipped and counted, or an error.
        max_pixels: limit on the pixels of an image; a larger one is treated like a corrupt one.
        labelled: whether the classes are used: then a single subfolder that holds the class folders is refused.
        key: setting that ``path`` comes from, for messages.

    Attributes:
        paths: the files, in order (each path is created on demand).
        skipped_images: the images that this process has skipped.
        others: the files that are not images.
        inner: path and names of class folders inside a single subfolder; None if there are none.

    Raises:
        ValueError: no folder, no images, images next to class subfolders, an unknown class, or the splits of a data
            set instead of classes.
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
        self.skipped_images: list[SkippedImage] = []
        self._untaken: list[SkippedImage] = []
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
        self._check_class_folders(layout.classes)
        if self.class_names:
            listings, self.others = [layout.classes.get(name, _NO_FILES) for name in self.class_names], layout.others
        else:
            flat = list_images(self.path)
            listings, self.others = [flat.images], flat.others
        self.paths = Listing.joined(self.path, listings)
        if not self.paths:
            raise ValueError(
                f"{key} holds no images: {str(path)!r} has {describe_contents(self.others)}; "
                f"{describe_expected_files()}"
            )
        self.labels = np.repeat(np.arange(len(listings), dtype=np.int64), [len(files) for files in listings])
        report_other_files(key, self.others)

    @property
    def skipped(self) -> int:
        """Number of images that this process has skipped."""
        return len(self.skipped_images)

    def load(self, index: int, rng: np.random.Generator | None) -> PixelArray:
        """Return image ``index`` as uint8 (C, S, S).

        A corrupt file is replaced by the next good one of the same class, so every other image keeps its position in
        the order.

        Raises:
            ValueError: the file is corrupt and ``on_corrupt`` is "error", or its class has no good image.
        """
        rng = rng if self.crop == "random" else None
        ignore_decoder_warnings()
        while True:
            chosen = self._replacement_if_corrupt(index)
            try:
                return np.ascontiguousarray(cut_square(self.decode(chosen), self.image_size, rng))
            except Exception as error:  # Pillow's decoders raise errors of nearly any kind for a damaged file
                self._corrupt.add(chosen)
                self._skip({chosen: error})
                self._untaken.append(self.skipped_images[-1])

    def take_skipped(self) -> list[SkippedImage]:
        taken, self._untaken = self._untaken, []
        return taken

    def decode(self, index: int) -> PixelArray:
        """Decode an image for cropping, uint8: (C, S, S), or with random crops (C, H, W) with short side S.

        Damaged files raise errors of nearly any kind.
        """
        path = self.paths[index]
        with self._open(path) as stream:
            return self._decoded(path, stream)

    def content(self, index: int) -> Content:
        """Return the size and hash of a file, for the fingerprint."""
        with self._open(self.paths[index]) as stream:
            return content_of(stream)

    def content_and_decode(self, index: int) -> tuple[Content, PixelArray]:
        """Return the results of ``content`` and ``decode``, opening the file once."""
        path = self.paths[index]
        with self._open(path) as stream:
            pixels = self._decoded(path, stream)  # first, so that no more is read of a file that is not an image
            return content_of(stream), pixels

    def content_or_fault(self, index: int) -> Content | Exception:
        """Return the result of ``content`` for a file that can be decoded, else the error."""
        try:
            return self.content_and_decode(index)[0]
        except Exception as error:  # as in load
            return error.with_traceback(None)  # the traceback would keep the partly decoded image alive

    def fingerprint(self) -> str:
        """Return the SHA-256 of the files and their processing, independent of the folder's path.

        It covers, for each file in order, its name inside the folder, its size and the SHA-256 of its content, read in
        parallel without decoding, and the classes, size, channels, crop and background. Files that ``check`` has
        dropped are not included.
        """
        return self.fingerprint_of(self._contents or map_in_order(self.content, len(self.paths)))

    def hashes(self) -> HashArray:
        """Return the SHA-256 of each file, (N, 32)."""
        if self._contents is None:
            self._contents = Contents()
            for content in map_in_order(self.content, len(self.paths)):
                self._contents.append(content)
        return self._contents.hashes()

    def fingerprint_of(self, contents: Iterable[Content]) -> str:
        """Return the fingerprint, given the sizes and hashes of the files in order."""
        digest = self._start_hash()
        digest.update(repr((CROPS[self.crop], self.background)).encode())
        for index, (size, sha256) in enumerate(contents):
            digest.update(b"%s\0%d\0%s\n" % (self.paths.name(index), size, sha256.hex().encode()))
        return digest.hexdigest()

    def check(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Decode every file once and drop those that fail, naming and counting them in one warning.

        Call it before indices are used (they change), and before the run writes anything. ``progress`` is called with
        (files done, total files).

        Raises:
            ValueError: a file is corrupt and ``on_corrupt`` is "error", or no good file is left.
        """
        corrupt: dict[int, Exception] = {}
        contents = Contents()
        with report_decoder_warnings(self.key):
            for index, content in enumerate(map_in_order(self.content_or_fault, len(self.paths))):
                if isinstance(content, Exception):
                    corrupt[index] = content
                else:
                    contents.append(content)
                if progress is not None:
                    progress(index + 1, len(self.paths))
        self.drop(corrupt)
        self._contents = contents

    def drop(self, corrupt: Mapping[int, Exception]) -> None:
        """Drop corrupt files, given the error of each; raises as ``check`` does."""
        if not corrupt:
            return
        if len(corrupt) == len(self.paths):
            first = skipped_image(self.paths[min(corrupt)], corrupt[min(corrupt)])
            raise ValueError(
                f"{self.key}: none of the {len(corrupt)} images in {str(self.path)!r} can be decoded, as {first}"
            )
        self._skip(corrupt)
        good: IndexArray = np.delete(np.arange(len(self.paths)), list(corrupt))
        self.paths, self.labels = self.paths.select(good), self.labels[good]
        self._corrupt.clear()
        self._contents = None

    @contextlib.contextmanager
    def _open(self, path: Path) -> Iterator[BinaryIO]:
        """Open a file; small ones are read at once, since Pillow reads headers a few bytes at a time."""
        most = SMALL_FILE + 2 * BYTES_PER_PIXEL * self.max_pixels
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > most:
                needed = -(-(size - SMALL_FILE) // (2 * BYTES_PER_PIXEL))
                raise ImageTooLargeError(f"{size / 1e9:.1f} GB, which takes a data.max_pixels of {needed}")
            yield io.BytesIO(file.read(size)) if size <= SMALL_FILE else file

    def _decoded(self, path: Path, stream: BinaryIO) -> PixelArray:
        with decoding(path), decode_image(stream, self.image_size, self.max_pixels, path.suffix) as decoded:
            image = to_channels(decoded, self.channels, self.background)
            resize = resize_to_strip if self.crop == "random" else resize_and_crop
            return resize(image, self.image_size)

    def _replacement_if_corrupt(self, index: int) -> int:
        """Return ``index``, or if it is known to be corrupt, the next image of its class that is not."""
        if index not in self._corrupt:
            return index
        same_class = np.flatnonzero(self.labels == self.labels[index])
        for member in np.roll(same_class, -int(np.searchsorted(same_class, index))).tolist():
            if member not in self._corrupt:
                return int(member)
        raise ValueError(f"{self.key}: every image of the class of {self.paths[index]} is corrupt")

    def _skip(self, corrupt: Mapping[int, Exception]) -> None:
        skipped = [skipped_image(self.paths[index], error) for index, error in corrupt.items()]
        report_skipped(self.key, skipped, self.max_pixels, fatal=self.on_corrupt == "error")
        self.skipped_images += skipped

    def _check_class_folders(self, folders: Mapping[str, Listing]) -> None:
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
                f"as data.paths.train does, got only images in {str(self.path)!r}"
            )
