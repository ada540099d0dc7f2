"""Lock of a run folder, released when the process that holds it ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from diffusion_lab.console.terminal import printable
from diffusion_lab.files.reading import parse_json
from diffusion_lab.files.writing import name_folder_in_errors
from diffusion_lab.runtime.process_identity import is_alive, own_identity

LOCK_NAME = ".lock"
MAX_LOCK_BYTES = 4096
"""Maximum bytes of a lock file that are read; it holds one short line."""

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)
"""Error numbers of file systems without locks, such as NFS without its lock daemon."""


def check_unused(folder: Path, key: str) -> None:
    """Raise ValueError if another process holds the lock of ``folder``; nothing is created.

    Args:
        folder: The folder, which need not exist.
        key: Key of the folder in the settings.
    """
    with (
        contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError),
        _opened(folder, os.O_RDWR) as file,
    ):
        _lock(file, folder, key)


@contextlib.contextmanager
def hold_lock(folder: Path, key: str) -> Iterator[None]:
    """Hold the lock of ``folder``, which is created if missing.

    The operating system releases the lock when the process ends, however it ends. It is a record lock, not a flock: a
    flock would be inherited by loader workers, which may outlive a killed process. On a file system without locks, the
    folder counts as locked while the process named in the file runs on this host, and a warning says so.

    Raises:
        ValueError: Another process holds it, which is named; or something else is in place of the lock file.
    """
    with name_folder_in_errors(folder, key):
        folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK_NAME
    while True:
        with _opened(folder, os.O_RDWR | os.O_CREAT) as file:
            if not _lock(file, folder, key):
                warnings.warn(
                    f"the file system of {key}={folder} has no locks, so a process on another machine is not kept out "
                    "of it: give each run a folder of its own",
                    stacklevel=3,
                )
            if not _is_at(file, path):
                continue  # its holder removed it just before we locked it: try the new file
            file.seek(0)
            file.truncate(0)
            file.write(json.dumps(own_identity()) + "\n")
            file.flush()
            try:
                yield
            finally:
                if _is_at(file, path):  # else it was removed meanwhile, and the file there now belongs to another
                    path.unlink(missing_ok=True)
            return


def in_use_error(folder: Path, key: str, holder: str) -> ValueError:
    """Return the error for a folder that another process uses."""
    return ValueError(
        f"{key} is in use by another process, got {str(folder)!r} ({holder}): wait for it, end it, or choose another "
        "folder"
    )


def _opened(folder: Path, flags: int) -> IO[str]:
    """Open the lock file without following links. Raises ValueError if something else is in its place."""
    path = folder / LOCK_NAME
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise _in_the_way(path) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _in_the_way(path)
    return os.fdopen(descriptor, "r+")


def _in_the_way(path: Path) -> ValueError:
    return ValueError(
        f"{path} is in the way: the lock of the folder goes there, and it is something else; move it away"
    )


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.lstat())
    except (FileNotFoundError, NotADirectoryError):
        return False


def _lock(file: IO[str], folder: Path, key: str) -> bool:
    """Acquire the lock; returns False if the file system has none and no process on this host is using the folder."""
    locked = True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise in_use_error(folder, key, _describe(_holder(file, folder))) from error
        if error.errno not in NO_LOCKS:
            raise
        locked = False
    holder = _holder(file, folder)
    if not locked and holder and holder["pid"] != os.getpid() and is_alive(holder):
        raise in_use_error(folder, key, _describe(holder))
    return locked


def _holder(file: IO[str], folder: Path) -> dict[str, Any]:
    """Return the process that acquired the lock last; empty if it is not recorded yet.

    Raises:
        ValueError: The file is not a lock file.
    """
    file.seek(0)
    try:
        text = file.read(MAX_LOCK_BYTES)
        holder = parse_json(text, LOCK_NAME) if text else {}
    except ValueError as error:
        raise _in_the_way(folder / LOCK_NAME) from error
    if holder != {} and not (isinstance(holder, dict) and {"pid", "host"} <= holder.keys()):
        raise _in_the_way(folder / LOCK_NAME)
    return holder


def _describe(holder: dict[str, Any]) -> str:
    return printable(f"process {holder['pid']} on {holder['host']}") if holder else "not recorded yet which one"
