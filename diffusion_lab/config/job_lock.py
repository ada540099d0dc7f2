"""One job of a sweep, one process: a lock in the job's folder that goes with the process that holds it."""

from __future__ import annotations

import errno
import fcntl
import os
from enum import Enum
from pathlib import Path

from diffusion_lab.folder_lock import NO_LOCKS

LOCK = ".job.lock"


class Lock(Enum):
    """What came of asking for the lock."""

    OURS = "ours"
    TAKEN = "taken"
    UNSUPPORTED = "unsupported"


_held: dict[Path, int] = {}
# The system drops a process's record locks on a file when the process closes that file anywhere: so a lock that is
# ours is never asked about by opening the file again.


def take(folder: Path) -> Lock:
    """Take the lock of a job's folder, where no other process has it; ``release`` gives it back.

    The system releases it when the process ends, however it ends, and network file systems when the machine does. It
    is a record lock: a flock would live on in loader workers that outlive a process which was killed.
    """
    place = folder.resolve()
    if place in _held:
        return Lock.OURS
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    got = _lock(descriptor)
    if got is Lock.OURS:
        _held[place] = descriptor
    else:
        os.close(descriptor)
    return got


def release(folder: Path) -> None:
    """Give back the lock; nothing happens where it is not ours. The file stays: others may be waiting for it."""
    descriptor = _held.pop(folder.resolve(), None)
    if descriptor is not None:
        os.close(descriptor)


def is_taken(folder: Path) -> bool | None:
    """Whether a process, this one included, holds the lock; None where the file system has none to tell."""
    if folder.resolve() in _held:
        return True
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    except OSError:
        return None  # another user's, or on a disk that can only be read
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
