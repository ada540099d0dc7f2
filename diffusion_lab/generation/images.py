"""How finished images are kept so that they outlive the program: a PNG each, or their bytes in one file."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from pathlib import Path

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diffusion_lab.generation.arrays import ARRAYS, stored_pixels
from diffusion_lab.generation.order import PNG_KEY, Order, file_name
from diffusion_lab.pictures import image_of, pixels_of
from diffusion_lab.shapes import Pixels
from diffusion_lab.whole_files import written_whole

RAW = ".pixels.raw"

Shape = tuple[int, int, int]
"""``(C, H, W)``."""


class KeptImages(ABC):
    """The images of a folder that are done.

    Args:
        folder: Where.
        order: What is known of each.
        shape: ``(C, H, W)``.
    """

    outlive: bool
    """Whether the images themselves stay when the generation is finished."""

    def __init__(self, folder: Path, order: Order, shape: Shape) -> None:
        self.folder, self.order, self.shape = folder, order, shape

    @abstractmethod
    def done(self, count: int, told: int) -> list[bool]:
        """Which of ``count`` images are there and whole, ``told`` lines of the manifest being; mends what is half."""

    @abstractmethod
    def add(self, first: int, pixels: Pixels) -> None:
        """Keep images ``(N, C, H, W)`` that have just been made; those that are there stay as they are."""

    @abstractmethod
    def read(self, index: int) -> Pixels:
        """An image that is done, ``(C, H, W)``."""

    def close(self) -> None:  # noqa: B027 - most have nothing to do
        """Remove what only an unfinished generation needs."""


class PngFiles(KeptImages):
    """``sample_0000.png`` and so on, each carrying its line of the manifest."""

    outlive = True

    def done(self, count: int, told: int) -> list[bool]:
        self._there = [self._is_whole(index) for index in range(count)]
        return self._there

    def add(self, first: int, pixels: Pixels) -> None:
        for index, image in enumerate(pixels, start=first):
            if not self._there[index]:
                text = PngInfo()
                text.add_text(PNG_KEY, self.order.text(index))
                # A power failure may still cut one short: it is then found, and made again.
                with written_whole(self.folder / file_name(index), lasting=False) as path:
                    image_of(image).save(path, "PNG", pnginfo=text)

    def read(self, index: int) -> Pixels:
        with Image.open(self.folder / file_name(index)) as image:
            return pixels_of(image)

    def _is_whole(self, index: int) -> bool:
        try:
            with Image.open(self.folder / file_name(index), formats=["PNG"]) as image:
                told = image.info.get(PNG_KEY)
                image.verify()  # the checksums of all chunks
                return (image.height, image.width) == self.shape[1:] and json.loads(told or "") == self.order.line(
                    index
                )
        except (OSError, SyntaxError, ValueError):  # SyntaxError is what Pillow says of a broken PNG
            return False


class RawBytes(KeptImages):
    """The bytes of all images in turn, in a file that goes when the generation is finished."""

    outlive = False

    def done(self, count: int, told: int) -> list[bool]:
        if not self._path.exists():
            self._restore()
        whole = min(told, count, self._path.stat().st_size // self._size)
        os.truncate(self._path, whole * self._size)
        return [index < whole for index in range(count)]

    def add(self, first: int, pixels: Pixels) -> None:
        os.truncate(self._path, first * self._size)  # of a batch that was half there all are made again
        with self._path.open("ab") as file:
            file.write(pixels.contiguous().numpy().tobytes())
            file.flush()
            os.fsync(file.fileno())

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
        with written_whole(self._path) as path, path.open("wb") as file:
            for pixels in stored_pixels(self.folder / ARRAYS):
                file.write(pixels.contiguous().numpy().tobytes())


class Nothing(KeptImages):
    """Images of which only the manifest is wanted."""

    outlive = False

    def done(self, count: int, told: int) -> list[bool]:
        return [index < told for index in range(count)]

    def add(self, first: int, pixels: Pixels) -> None:
        pass

    def read(self, index: int) -> Pixels:
        raise NotImplementedError("no image is kept")
