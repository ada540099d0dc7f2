"""Atomic writes: a file is either complete or not there at all."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

PARTIAL = re.compile(r"\..+\.[0-9a-f]{8}\.partial", flags=re.DOTALL)
"""Temporary names used by ``atomic_write``; no other program uses such names."""

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""Error numbers for a full disk or an exhausted quota."""


@contextlib.contextmanager
def atomic_write(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path next to ``path``, on the same file system, that replaces ``path`` atomically at the end.

    Whatever happens, a file of that name is either the previous one or the complete new one. If ``path`` is a link,
    the link is replaced, and its target stays unchanged.

    Args:
        path: The file.
        durable: Wait until the content and the name are on disk, so that they survive a power failure.

    Raises:
        OSError: It cannot be written; the error names a file.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        yield partial
        if durable:
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # a write to a full disk names no file
    finally:
        partial.unlink(missing_ok=True)
    if durable:
        _sync_folder(path.parent)


def remove_partial_files(folder: Path) -> None:
    """Remove the temporary files that killed programs left behind in ``atomic_write``, and nothing else."""
    for leftover in folder.glob(".*.partial"):
        if PARTIAL.fullmatch(leftover.name) and (leftover.is_symlink() or leftover.is_file()):
            leftover.unlink(missing_ok=True)


def check_writable(folder: Path, key: str) -> None:
    """Raise an OSError, naming ``key``, if ``folder`` cannot be created or written; nothing is created."""
    with name_folder_in_errors(folder, key):
        nearest = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise PermissionError(f"{key} must be a writable folder, got {str(folder)!r} ({nearest} is not writable)")


@contextlib.contextmanager
def name_folder_in_errors(folder: Path, key: str) -> Iterator[None]:
    """Add the key, the folder and advice to operating system errors while a folder is looked up or created."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        text = f"{key} must be a folder that can be created and written, got {shorten(str(folder))!r}: {reason}"
        advice = "free some space, or choose" if error.errno in DISK_FULL else "choose"
        raise type(error)(f"{text}; {advice} another folder") from error


def shorten(text: str, longest: int = 300) -> str:
    """Return a string of at most ``longest`` characters, with its middle omitted if it is longer.

    >>> shorten("0123456789", 5)
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
