"""Pictures of a report: shrunk, and stored once however often they are shown."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from diffusion_lab.files.reading import read_regular

MAX_BYTES = 64 * 2**20
MAX_PIXELS = 64 * 10**6
"""Largest image that is decoded; a larger one becomes a note."""

SMALL = 12_000
"""Bytes up to which a file is stored unchanged."""

QUALITY = 84
FORMATS = ("PNG", "JPEG", "WEBP")
THREADS = 4


@dataclass(frozen=True)
class StoredImage:
    """An image of the page.

    Attributes:
        mime: Its media type.
        content: Its bytes in base64.
        width: Width in pixels.
        height: Height in pixels.
    """

    mime: str
    content: str
    width: int
    height: int


@dataclass
class ImageStore:
    """Images of one page by number; equal files have the same number.

    A store may be used for several pages about the same files: unchanged files are not decoded again.

    Attributes:
        most_pixels: Maximum width and height; larger images are shrunk.
    """

    most_pixels: int = 1200
    images: list[StoredImage] = field(default_factory=list)
    _numbers: dict[str, int] = field(default_factory=dict)
    _known: dict[tuple[str, int, int], int] = field(default_factory=dict)

    def add_all(self, files: Sequence[Path]) -> dict[Path, int | str]:
        """Store image files.

        Returns:
            By file, the number of its image, or why it cannot be shown.
        """
        added: dict[Path, int | str] = {}
        with ThreadPoolExecutor(THREADS) as pool:
            new = [file for file in dict.fromkeys(files) if (number := self._known.get(_key(file))) is None]
            added.update({file: number for file in files if (number := self._known.get(_key(file))) is not None})
            for file, read in zip(new, pool.map(self._read, new), strict=True):
                added[file] = read if isinstance(read, str) else self._store(file, *read)
        return added

    def _read(self, file: Path) -> tuple[str, StoredImage | None] | str:
        """Return the digest of a file and its image, None if the digest is known; or why it cannot be read."""
        if file.is_symlink():
            return "it is a link, which is not followed"
        try:
            content = read_regular(file, MAX_BYTES)
            digest = hashlib.sha256(content).hexdigest()
            return digest, None if digest in self._numbers else shrink(content, self.most_pixels)
        except Exception as error:  # decoders of damaged files raise almost anything
            return (getattr(error, "strerror", None) or str(error) or type(error).__name__).split("\n")[0]

    def _store(self, file: Path, digest: str, image: StoredImage | None) -> int:
        number = self._numbers.get(digest)
        if number is None:
            assert image is not None
            number = self._numbers[digest] = len(self.images)
            self.images.append(image)
        self._known[_key(file)] = number
        return number


def shrink(content: bytes, most_pixels: int) -> StoredImage:
    """Return an image at most ``most_pixels`` wide and high, in the smallest of its own format and WebP.

    Raises:
        ValueError: It has too many pixels.
        OSError: It is not an image, or damaged.
    """
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"it has {image.width}×{image.height} pixels")
        mime, size = Image.MIME[str(image.format)], image.size
        if len(content) > SMALL or max(size) > most_pixels:
            shown = image.convert("RGBA" if "A" in image.getbands() or "transparency" in image.info else "RGB")
            shown.thumbnail((most_pixels, most_pixels), Image.Resampling.LANCZOS, reducing_gap=3)
            buffer = io.BytesIO()
            shown.save(buffer, "WEBP", quality=QUALITY, method=2)
            if shown.size != size or buffer.tell() < len(content):
                content, mime, size = buffer.getvalue(), "image/webp", shown.size
        else:
            image.load()  # a damaged file must not reach the page
    return StoredImage(mime, base64.b64encode(content).decode("ascii"), *size)


def _key(file: Path) -> tuple[str, int, int]:
    """Return what identifies an unchanged file."""
    try:
        state = file.stat()
    except OSError:
        return str(file), 0, -1
    return str(file), state.st_mtime_ns, state.st_size
