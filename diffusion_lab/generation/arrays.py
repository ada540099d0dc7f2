"""``samples.npz`` in the layout of the ADM evaluation suite, written and read an image at a time."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.lib import format as npy

from diffusion_lab.shapes import Pixels
from diffusion_lab.whole_files import written_whole

ARRAYS = "samples.npz"
IMAGES, LABELS = "arr_0.npy", "arr_1.npy"


def write_arrays(
    path: Path, images: Iterator[Pixels], shape: tuple[int, int, int, int], labels: Sequence[int] | None
) -> None:
    """Write ``arr_0`` uint8 ``(N, H, W, C)`` and, with labels, ``arr_1`` ``(N,)``, as ``numpy.savez`` does.

    Args:
        path: The file.
        images: Each ``(C, H, W)``; one at a time is in memory.
        shape: ``(N, C, H, W)``.
        labels: Class numbers.
    """
    count, channels, height, width = shape
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, height, width, channels)}
    with written_whole(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        with archive.open(IMAGES, "w", force_zip64=True) as file:
            npy.write_array_header_1_0(file, header)
            for image in images:
                file.write(image.permute(1, 2, 0).contiguous().numpy().tobytes())
        if labels is not None:
            with archive.open(LABELS, "w", force_zip64=True) as file:
                npy.write_array(file, np.asarray(labels, dtype=np.int64))


def stored_count(path: Path) -> int:
    """Number of images in the file; 0 where it is not there or damaged."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(IMAGES) as file:
            return _shape(file)[0]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return 0


def stored_pixels(path: Path) -> Iterator[Pixels]:
    """The images ``(C, H, W)`` in the file in turn; none where it is not there or damaged."""
    if not stored_count(path):
        return
    with zipfile.ZipFile(path) as archive:
        if archive.testzip() is not None:
            return
        with archive.open(IMAGES) as file:
            count, height, width, channels = _shape(file)
            for _ in range(count):
                pixels = torch.frombuffer(bytearray(file.read(channels * height * width)), dtype=torch.uint8)
                yield pixels.view(height, width, channels).permute(2, 0, 1)


def _shape(file: IO[bytes]) -> tuple[int, ...]:
    npy.read_magic(file)
    shape, _, _ = npy.read_array_header_1_0(file)
    return tuple(shape)
