"""How finished images are kept so that they outlive the program: a PNG each, or their bytes in one file."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diffusion_lab.atomic_files import atomic_write
from diffusion_lab.generation.arrays import ARRAYS, stored_pixels
from diffusion_lab.generation.request import PNG_KEY, GenerationRequest, file_name
from diffusion_lab.image_grids import image_pixels, to_image
from diffusion_lab.safe_files import open_regular, parse_json
from diffusion_lab.shapes import Pixels

RAW = ".pixels.raw"

Shape = tuple[int, int, int]
"""``(C, H, W)``."""


MAX_PIXELS = 2**26
"""Of a PNG that is read: no sampled image has more, and one that declares more could fill the memory."""


def read_png(path: Path, shape: Shape | None = None) -> tuple[Pixels, Any]:
    """Read an image that was sampled.

    Args:
        path: The file.
        shape: ``(C, H, W)`` that it must have.

    Returns:
        Its pixels ``(C, H, W)``, and the line of the manifest that it carries, None where it carries none.

    Raises:
        ValueError: It is damaged, of another shape, or no PNG.
        OSError: It cannot be read.
    """
    with open_regular(path) as file:
        try:
            with Image.open(file, formats=["PNG"]) as image:
                if image.height * image.width > MAX_PIXELS or (shape and (image.height, image.width) != shape[1:]):
                    raise ValueError(f"it has {image.width}×{image.height} pixels")
                text = image.info.get(PNG_KEY)
                pixels = image_pixels(image)
            file.seek(0)
            with Image.open(file, formats=["PNG"]) as image:
                image.verify()  # the checksums of all chunks
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # SyntaxError: of a broken PNG
            raise ValueError(str(error)) from error
    if shape and tuple(pixels.shape) != shape:
        raise ValueError(f"its shape (channels, height, width) is {tuple(pixels.shape)}")
    return pixels, parse_json(text, "its text") if isinstance(text, str) else None


class ImageStore(ABC):
    """The images of a folder that are done.

    Args:
        folder: Where.
        order: What is known of each.
        shape: ``(C, H, W)``.
    """

    outlive: bool
    """Whether the images themselves stay when the generation is finished."""

    def __init__(self, folder: Path, order: GenerationRequest, shape: Shape) -> None:
        self.folder, self.order, self.shape = folder, order, shape

    @abstractmethod
    def done(self, count: int, told: Sequence[str]) -> list[str | None]:
        """Find out which of ``count`` images are there, whole, and those that were made; removes what is half.

        Args:
            count: Number of images.
            told: The digests in the manifest, from the first image on.

        Returns:
            The digest of each image, None for one that has to be made.
        """

    @abstractmethod
    def add(self, indices: Sequence[int], pixels: Pixels) -> Sequence[int]:
        """Keep images ``(N, C, H, W)`` that have just been made; those that are there stay as they are.

        Args:
            indices: Their numbers, rising.
            pixels: The images.

        Returns:
            The numbers of those that are kept now: all, or as many of the first as there is a place for.
        """

    @abstractmethod
    def read(self, index: int) -> Pixels:
        """An image that is done, ``(C, H, W)``."""

    def close(self) -> None:  # noqa: B027 - most have nothing to do
        """Remove what only an unfinished generation needs."""


class PngStore(ImageStore):
    """``sample_0000.png`` and so on, each carrying its line of the manifest."""

    outlive = True

    def done(self, count: int, told: Sequence[str]) -> list[str | None]:
        found = [self._digest(index) for index in range(count)]
        self._there = [digest is not None for digest in found]
        return found

    def add(self, indices: Sequence[int], pixels: Pixels) -> Sequence[int]:
        for index, image in zip(indices, pixels, strict=True):
            if not self._there[index]:
                text = PngInfo()
                text.add_text(PNG_KEY, self.order.text(index, self.order.digest(index, image)))
                # A power failure may still cut one short: it is then found, and made again.
                with atomic_write(self.folder / file_name(index), lasting=False) as path:
                    to_image(image).save(path, "PNG", pnginfo=text)
        return indices

    def read(self, index: int) -> Pixels:
        return read_png(self.folder / file_name(index))[0]

    def _digest(self, index: int) -> str | None:
        try:
            pixels, told = read_png(self.folder / file_name(index), self.shape)
        except (OSError, ValueError):
            return None
        digest = self.order.digest_in(told, index)
        return digest if digest == self.order.digest(index, pixels) else None


class RawStore(ImageStore):
    """The bytes of all images in turn, in a file that goes when the generation is finished."""

    outlive = False

    def done(self, count: int, told: Sequence[str]) -> list[str | None]:
        if self._path.is_symlink():  # what is appended to it would go elsewhere
            self._path.unlink()
        if not self._path.exists():
            self._restore()
        with open_regular(self._path) as file:
            held = os.fstat(file.fileno()).st_size // self._size
        whole = 0
        for index, digest in enumerate(told[: min(count, held)]):
            if self.order.digest(index, self.read(index)) != digest:
                break
            whole += 1
        os.truncate(self._path, whole * self._size)
        return [*told[:whole], *[None] * (count - whole)]

    def add(self, indices: Sequence[int], pixels: Pixels) -> Sequence[int]:
        first = indices[0]
        if first * self._size > self._path.stat().st_size:
            return ()  # an image before it could not be made
        run = [index for place, index in enumerate(indices, start=first) if index == place]
        os.truncate(self._path, first * self._size)  # of a batch that was half there all are made again
        with self._path.open("ab") as file:
            file.write(pixels[: len(run)].contiguous().numpy().tobytes())
            file.flush()
            os.fsync(file.fileno())
        return run

    def read(self, index: int) -> Pixels:
        with self._path.open("rb") as file:
            file.seek(index * self._size)
            return torch.frombuffer(bytearray(file.read(self._size)), dtype=torch.uint8).view(self.shape)

    def close(self) -> None:
        self._path.unlink(missing_ok=True)

    @property
    def _path(self) -> Path:
        return self.folder / RAW

    @property
    def _size(self) -> int:
        channels, height, width = self.shape
        return channels * height * width

    def _restore(self) -> None:
        """Of a finished generation only the arrays are left: more images are to follow those."""
        with atomic_write(self._path) as path, path.open("wb") as file:
            for pixels in stored_pixels(self.folder / ARRAYS):
                if tuple(pixels.shape) != self.shape:
                    return
                file.write(pixels.contiguous().numpy().tobytes())


class NullStore(ImageStore):
    """Images of which only the manifest is wanted."""

    outlive = False

    def done(self, count: int, told: Sequence[str]) -> list[str | None]:
        return [*told[:count], *[None] * (count - len(told))]

    def add(self, indices: Sequence[int], pixels: Pixels) -> Sequence[int]:
        return indices

    def read(self, index: int) -> Pixels:
        raise NotImplementedError("no image is kept")
