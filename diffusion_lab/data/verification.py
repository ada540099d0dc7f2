"""Verifying the pixels of a cache by their checksums, once per process: before use, or in the background."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

from diffusion_lab.data.cache_files import CheckArray, first_damaged_block, open_private

SMALL = 64 * 2**20
"""Maximum bytes of pixels that are verified before use, in a tenth of a second; more are verified in the background."""

LOWEST_PRIORITY = 19

_verified: set[tuple[int, ...]] = set()
"""Files that this process has verified, by device, inode, size and times."""


class DamagedCacheError(ValueError):
    """Raised if the pixels of a cache are not those that were decoded."""


class Verification:
    """Verification of the pixels of a cache by their checksums.

    Args:
        file: File of the pixels.
        checks: Their checksums, one per block.
        remove: Removes the cache, so that the next process decodes again; called if it is damaged.

    Attributes:
        damaged: Whether a block has been found that differs.
    """

    def __init__(self, file: Path, checks: CheckArray, remove: Callable[[], None]) -> None:
        self.damaged = False
        self._file, self._checks, self._remove = file, checks, remove
        self._thread: threading.Thread | None = None

    def run(self) -> bool:
        """Verify now; returns whether the pixels are intact."""
        try:
            with open_private(self._file) as stream:
                self.damaged = not self._is_intact(stream.fileno())
        except OSError:  # an unreadable file counts as damaged
            self.damaged = True
        if self.damaged:
            self._remove()
        return not self.damaged

    def start(self) -> None:
        """Verify in a thread of lowest priority."""
        self._thread = threading.Thread(target=self._run_in_background, name="verify cache", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until verification is finished."""
        if self._thread is not None:
            self._thread.join()

    def _run_in_background(self) -> None:
        with contextlib.suppress(OSError, AttributeError):  # AttributeError: a system without thread priorities
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST_PRIORITY)
        self.run()

    def _is_intact(self, descriptor: int) -> bool:
        state = os.fstat(descriptor)
        known = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
        if known not in _verified and first_damaged_block(descriptor, self._checks) is not None:
            return False
        _verified.add(known)
        return True
