"""One run folder, one process: a lock that goes with the process that holds it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO

LOCK_NAME = ".lock"


def refuse_if_used(folder: Path, key: str) -> None:
    """Raise ValueError where another process holds the lock of ``folder``; nothing is created.

    Args:
        folder: It need not exist.
        key: Of the settings, that names the folder.
    """
    with (
        contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError),
        (folder / LOCK_NAME).open("r+") as file,
    ):
        _lock(file, folder, key)


@contextlib.contextmanager
def held(folder: Path, key: str) -> Iterator[None]:
    """Hold the lock of ``folder``, which is made if it is not there.

    The system releases the lock when the process ends, however it ends. A record lock, not a flock: that one would
    live on in the workers that load data, for as long as they outlive a killed process.

    Raises:
        ValueError: Another process holds it; naming that process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK_NAME
    while True:
        with path.open("a+") as file:
            _lock(file, folder, key)
            if not _is_at(file, path):
                continue  # its holder removed it just before we got it: the next one is another file
            file.truncate(0)
            file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}) + "\n")
            file.flush()
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _lock(file: IO[str], folder: Path, key: str) -> None:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ValueError(
            f"{key} is in use by another process, got {str(folder)!r} ({_holder(file)}): wait for it, "
            "end it, or choose another folder"
        ) from error


def _holder(file: IO[str]) -> str:
    file.seek(0)
    try:
        told = json.loads(file.read())
        return f"process {told['pid']} on {told['host']}"
    except (ValueError, KeyError, TypeError):
        return "which one it does not say yet"
