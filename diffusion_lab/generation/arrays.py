"""``samples.npz`` in the layout of the ADM evaluation suite, written and read one image at a time."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.lib import format as npy

from diffusion_lab.files.reading import open_regular
from diffusion_lab.files.writing import atomic_write
from diffusion_lab.shapes import Pixels

ARRAYS = "samples.npz"
IMAGES, LABELS = "arr_0.npy", "arr_1.npy"


def write_arrays(
    path: Path, images: Iterator[Pixels], shape: tuple[int, int, int, int], labels: Sequence[int] | None
) -> None:
    """Write ``arr_0`` uint8 ``(N, H, W, C)`` and, with labels, ``arr_1`` ``(N,)``, as ``numpy.savez`` does.

    Args:
        path: The file.
        images: Images ``(C, H, W)``; only one at a time is held in memory.
        shape: ``(N, C, H, W)``.
        labels: Class numbers.
    """
    count, channels, height, width = shape
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, height, width, channels)}
    with atomic_write(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        with archive.open(IMAGES, "w", force_zip64=True) as file:
            npy.write_array_header_1_0(file, header)
            for image in images:
                file.write(image.permute(1, 2, 0).contiguous().numpy().tobytes())
        if labels is not None:
            with archive.open(LABELS, "w", force_zip64=True) as file:
                npy.write_array(file, np.asarray(labels, dtype=np.int64))


def read_pixels(path: Path) -> Iterator[Pixels]:
    """Yield the images ``(C, H, W)`` in the file; none if it is missing, damaged, or has another layout."""
    with contextlib.ExitStack() as stack:
        try:
            archive = stack.enter_context(_open_archive(path))
            file = stack.enter_context(archive.open(IMAGES))
            count, height, width, channels = _shape(archive, file)
        except Exception:  # a directory or header of changed bytes leads zipfile and numpy to errors of many kinds
            return
        for _ in range(count):
            pixels = torch.frombuffer(bytearray(file.read(channels * height * width)), dtype=torch.uint8)
            yield pixels.view(height, width, channels).permute(2, 0, 1)


def read_labels(path: Path) -> tuple[int, ...] | None:
    """Return the labels in the file, ``()`` if it has none; None if it is missing, damaged, or has another layout.

    A file written by NumPy may hold integers of any size.
    """
    try:
        with _open_archive(path) as archive:
            if LABELS not in archive.namelist():
                return ()
            with archive.open(LABELS) as file:
                npy.read_magic(file)
                (count,), _, dtype = npy.read_array_header_1_0(file)
                if dtype.kind not in "iu" or archive.getinfo(LABELS).file_size - file.tell() != count * dtype.itemsize:
                    return None
                return tuple(np.frombuffer(file.read(), dtype=dtype).tolist())
    except Exception:  # as in read_pixels
        return None


@contextlib.contextmanager
def _open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open an archive of images and optional labels.

    Raises:
        ValueError: It is compressed, damaged, or holds anything else.
    """
    with open_regular(path) as stream, zipfile.ZipFile(stream) as archive:
        if archive.namelist() not in ([IMAGES], [IMAGES, LABELS], [LABELS, IMAGES]):
            raise ValueError(f"it holds {archive.namelist()}")
        if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()) or archive.testzip():
            raise ValueError("it is compressed or damaged")
        yield archive


def _shape(archive: zipfile.ZipFile, file: IO[bytes]) -> tuple[int, int, int, int]:
    """Read the header of the images. Raises ValueError unless the file has exactly the number of bytes it declares."""
    npy.read_magic(file)
    (count, height, width, channels), fortran_order, dtype = npy.read_array_header_1_0(file)
    size = archive.getinfo(IMAGES).file_size - file.tell()
    if min(count, height, width, channels) < 1 or count * height * width * channels != size or fortran_order:
        raise ValueError("its shape does not match its size")
    if dtype != np.uint8:
        raise ValueError("it does not hold bytes")
    return count, height, width, channels
