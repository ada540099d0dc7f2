"""Lock in the folder of a sweep's job, which its process holds until it exits."""

from __future__ import annotations

import errno
import fcntl
import os
from enum import Enum
from pathlib import Path

from diffusion_lab.files.folder_lock import NO_LOCKS

LOCK = ".job.lock"


class Lock(Enum):
    """Result of trying to take the lock."""

    OURS = "ours"
    TAKEN = "taken"
    UNSUPPORTED = "unsupported"


_held: dict[Path, int] = {}
# The system drops a process's record locks on a file when the process closes that file anywhere: so a lock that we hold
# is never tested by opening the file again.


def take(folder: Path) -> Lock:
    """Take the lock of a job's folder unless another process holds it; ``release`` releases it.

    The system releases it when the process ends for any reason; network file systems do when the machine fails. It
    is a record lock: a flock would be held by loader workers that outlive a killed process.
    """
    path = folder.resolve()
    if path in _held:
        return Lock.OURS
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    result = _lock(descriptor)
    if result is Lock.OURS:
        _held[path] = descriptor
    else:
        os.close(descriptor)
    return result


def release(folder: Path) -> None:
    """Release the lock, if we hold it. The file stays, since others may be waiting for it."""
    descriptor = _held.pop(folder.resolve(), None)
    if descriptor is not None:
        os.close(descriptor)


def is_taken(folder: Path) -> bool | None:
    """Return whether any process, including this one, holds the lock; None if the file system has no locks."""
    if folder.resolve() in _held:
        return True
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    except OSError:
        return None  # owned by another user, or on a read-only disk
    try:
        return {Lock.OURS: False, Lock.TAKEN: True, Lock.UNSUPPORTED: None}[_lock(descriptor)]
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> Lock:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return Lock.TAKEN
        if error.errno in NO_LOCKS:
            return Lock.UNSUPPORTED
        raise
    return Lock.OURS
