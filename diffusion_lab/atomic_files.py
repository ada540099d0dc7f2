"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

PARTIAL = re.compile(r"\..+\.[0-9a-f]{8}\.partial", flags=re.DOTALL)
"""Names that ``atomic_write`` writes under; no other program uses such names."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a disk that is full, or of a quota that is used up."""


@contextlib.contextmanager
def atomic_write(path: Path, lasting: bool = True) -> Iterator[Path]:
    """Give a path beside ``path``, so on the same file system, to write to; it becomes ``path`` in one move.

    Whatever happens, a file of that name is either the previous one or the new one, whole. Where ``path`` is a link,
    the link is replaced, and what it leads to stays as it is.

    Args:
        path: The file.
        lasting: Wait until the disk has the bytes and the name, so that they are there after a power failure too.

    Raises:
        OSError: It cannot be written; the error names a file.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        yield partial
        if lasting:
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # a write to a full disk names no file
    finally:
        partial.unlink(missing_ok=True)
    if lasting:
        _sync_folder(path.parent)


def remove_partial_files(folder: Path) -> None:
    """Remove what a program that was killed had begun to write with ``atomic_write``, and nothing else."""
    for leftover in folder.glob(".*.partial"):
        if PARTIAL.fullmatch(leftover.name) and (leftover.is_symlink() or leftover.is_file()):
            leftover.unlink(missing_ok=True)


def check_writable(folder: Path, key: str) -> None:
    """Raise an OSError, naming ``key``, where ``folder`` cannot be made or written; nothing is created."""
    with naming_folder_in_errors(folder, key):
        nearest = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise PermissionError(f"{key} must be a folder that can be written, got {str(folder)!r} ({nearest} cannot)")


@contextlib.contextmanager
def naming_folder_in_errors(folder: Path, key: str) -> Iterator[None]:
    """Name the key, the folder and what to do in an error of the system while a folder is looked up or made."""
    try:
        yield
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        text = f"{key} must be a folder that can be made and written, got {shortened(str(folder))!r}: {why}"
        what_to_do = "free some space, or choose" if error.errno in NO_ROOM else "choose"
        raise type(error)(f"{text}; {what_to_do} another folder") from error


def shortened(text: str, longest: int = 300) -> str:
    """Return a text of at most ``longest`` characters, its middle left out where it is longer.

    >>> shortened("0123456789", 5)
    '01…89'
    """
    half = (longest - 1) // 2
    return text if len(text) <= longest else f"{text[:half]}…{text[-half:]}"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems cannot flush a folder
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    finally:
        os.close(descriptor)
