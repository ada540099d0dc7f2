"""Files that are there whole or not at all, and a folder that one process at a time writes into."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

PARTIAL = ".partial"
LOCK = ".lock"


@contextlib.contextmanager
def written_whole(path: Path, lasting: bool = True) -> Iterator[Path]:
    """Give a path beside ``path`` to write to; it becomes ``path`` in one move when all went well.

    Args:
        path: The file.
        lasting: Wait until the disk has it, so that it is whole after a power failure too.
    """
    partial = path.with_name(f".{path.name}{PARTIAL}")
    yield partial
    if lasting:
        with partial.open("rb") as file:
            os.fsync(file.fileno())
    partial.replace(path)


def remove_partial_files(folder: Path) -> None:
    """Remove what a program that was killed had begun to write."""
    for leftover in folder.glob(f".*{PARTIAL}"):
        leftover.unlink()


@contextlib.contextmanager
def locked(folder: Path, key: str) -> Iterator[None]:
    """Keep other processes out of a folder; the system opens it again when this process ends, however that is.

    Raises:
        ValueError: Another process is in it.
    """
    path = folder / LOCK
    while True:
        file = path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            file.close()
            raise ValueError(
                f"{key} is being written by another process (number {holder}), got {str(folder)!r}: wait for it, or "
                "choose another folder"
            ) from None
        if _is_at(file.fileno(), path):
            break
        file.close()  # its holder removed it just before we got it: the next one is another file
    try:
        file.truncate(0)
        file.write(f"{os.getpid()}")
        file.flush()
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
