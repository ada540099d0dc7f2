"""Stores of finished images that outlive the program: one PNG per image, or their bytes in one file."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diffusion_lab.files.reading import open_regular, parse_json
from diffusion_lab.files.writing import atomic_write
from diffusion_lab.generation.arrays import ARRAYS, read_pixels
from diffusion_lab.generation.request import PNG_KEY, GenerationRequest, file_name
from diffusion_lab.image_grids import image_pixels, to_image
from diffusion_lab.shapes import Pixels

RAW = ".pixels.raw"

Shape = tuple[int, int, int]
"""``(C, H, W)``."""


MAX_PIXELS = 2**26
"""Maximum pixels of a PNG that is read: no sampled image has more, and one that declares more could fill the memory."""


def read_png(path: Path, shape: Shape | None = None) -> tuple[Pixels, Any]:
    """Read a generated image.

    Args:
        path: The file.
        shape: Required shape ``(C, H, W)``.

    Returns:
        Its pixels ``(C, H, W)``, and the manifest line embedded in it, or None.

    Raises:
        ValueError: It is damaged, has another shape, or is not a PNG.
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
    """Store of the finished images of a folder.

    Args:
        folder: The folder.
        request: The generation, which determines the manifest line of each image.
        shape: ``(C, H, W)``.
    """

    keeps_images: bool
    """True if the images remain in the store when the generation is finished."""

    def __init__(self, folder: Path, request: GenerationRequest, shape: Shape) -> None:
        self.folder, self.request, self.shape = folder, request, shape

    @abstractmethod
    def find_finished(self, count: int, recorded: Sequence[str]) -> list[str | None]:
        """Find which of ``count`` images exist and are intact; incomplete data is removed.

        Args:
            count: Number of images.
            recorded: Digests in the manifest, starting with the first image.

        Returns:
            The digest of each image, None for one that has to be generated.
        """

    @abstractmethod
    def add(self, indices: Sequence[int], pixels: Pixels) -> Sequence[int]:
        """Store new images ``(N, C, H, W)``; existing ones stay unchanged.

        Args:
            indices: Their indices, ascending.
            pixels: The images.

        Returns:
            The indices of the images that are now stored: all, or as many of the first as can be appended.
        """

    @abstractmethod
    def read(self, index: int) -> Pixels:
        """Return a finished image ``(C, H, W)``."""

    def close(self) -> None:  # noqa: B027 - most stores have nothing to remove
        """Remove files that only an unfinished generation needs."""


class PngStore(ImageStore):
    """``sample_0000.png`` and so on, each with its manifest line embedded."""

    keeps_images = True

    def find_finished(self, count: int, recorded: Sequence[str]) -> list[str | None]:
        digests = [self._digest(index) for index in range(count)]
        self._finished = [digest is not None for digest in digests]
        return digests

    def add(self, indices: Sequence[int], pixels: Pixels) -> Sequence[int]:
        for index, image in zip(indices, pixels, strict=True):
            if not self._finished[index]:
                text = PngInfo()
                text.add_text(PNG_KEY, self.request.text(index, self.request.digest(index, image)))
                # A power failure may still truncate one: it is then detected and generated again.
                with atomic_write(self.folder / file_name(index), durable=False) as path:
                    to_image(image).save(path, "PNG", pnginfo=text)
        return indices

    def read(self, index: int) -> Pixels:
        return read_png(self.folder / file_name(index))[0]

    def _digest(self, index: int) -> str | None:
        try:
            pixels, recorded = read_png(self.folder / file_name(index), self.shape)
        except (OSError, ValueError):
            return None
        digest = self.request.digest_in(recorded, index)
        return digest if digest == self.request.digest(index, pixels) else None


class RawStore(ImageStore):
    """Bytes of all images in one file, which is removed when the generation is finished."""

    keeps_images = False

    def find_finished(self, count: int, recorded: Sequence[str]) -> list[str | None]:
        if self._path.is_symlink():  # bytes appended to it would end up elsewhere
            self._path.unlink()
        if not self._path.exists():
            self._restore()
        with open_regular(self._path) as file:
            held = os.fstat(file.fileno()).st_size // self._size
        intact = 0
        for index, digest in enumerate(recorded[: min(count, held)]):
            if self.request.digest(index, self.read(index)) != digest:
                break
            intact += 1
        os.truncate(self._path, intact * self._size)
        return [*recorded[:intact], *[None] * (count - intact)]

    def add(self, indices: Sequence[int], pixels: Pixels) -> Sequence[int]:
        first = indices[0]
        if first * self._size > self._path.stat().st_size:
            return ()  # an earlier image could not be generated
        consecutive = [index for expected, index in enumerate(indices, start=first) if index == expected]
        os.truncate(self._path, first * self._size)  # all images of an incomplete batch are generated again
        with self._path.open("ab") as file:
            file.write(pixels[: len(consecutive)].contiguous().numpy().tobytes())
            file.flush()
            os.fsync(file.fileno())
        return consecutive

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
        """Refill the file from the arrays, all that is left of a finished generation that is to be extended."""
        with atomic_write(self._path) as path, path.open("wb") as file:
            for pixels in read_pixels(self.folder / ARRAYS):
                if tuple(pixels.shape) != self.shape:
                    return
                file.write(pixels.contiguous().numpy().tobytes())


class NullStore(ImageStore):
    """Store nothing, where only the manifest is requested."""

    keeps_images = False

    def find_finished(self, count: int, recorded: Sequence[str]) -> list[str | None]:
        return [*recorded[:count], *[None] * (count - len(recorded))]

    def add(self, indices: Sequence[int], pixels: Pixels) -> Sequence[int]:
        return indices

    def read(self, index: int) -> Pixels:
        raise NotImplementedError("no image is stored")
