"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

PARTIAL = ".partial"


@contextlib.contextmanager
def written_whole(path: Path, lasting: bool = True) -> Iterator[Path]:
    """Give a path beside ``path``, so on the same file system, to write to; it becomes ``path`` in one move.

    Whatever happens, a file of that name is either the previous one or the new one, whole.

    Args:
        path: The file.
        lasting: Wait until the disk has the bytes and the name, so that they are there after a power failure too.
    """
    partial = path.with_name(f".{path.name}{PARTIAL}")
    partial.unlink(missing_ok=True)  # a leftover, or a link that would lead what is written elsewhere
    try:
        yield partial
        if lasting:
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    if lasting:
        _sync_folder(path.parent)


def remove_partial_files(folder: Path) -> None:
    """Remove what a program that was killed had begun to write."""
    for leftover in folder.glob(f".*{PARTIAL}"):
        leftover.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
