"""Comparing the pixels of a cache with their checksums, once a process: at once, or beside the training."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

from diffusion_lab.data.cache_files import CheckArray, first_damaged_block, open_own

SMALL = 64 * 2**20
"""Bytes of pixels that are compared before they are used: a tenth of a second. More are compared in the background."""

LOWEST_PRIORITY = 19

_verified: set[tuple[int, ...]] = set()
"""The files that this process has compared, by device, number, size and times."""


class DamagedCacheError(ValueError):
    """The pixels of a cache are not those that were decoded."""


class Verification:
    """Reads the pixels of a cache and compares them with their checksums.

    Args:
        file: The pixels.
        checks: Their checksums, one for each block.
        remove: Removes the cache, so that the next process decodes anew; called where it is damaged.

    Attributes:
        damaged: The file was read as far as to a block that differs.
    """

    def __init__(self, file: Path, checks: CheckArray, remove: Callable[[], None]) -> None:
        self.damaged = False
        self._file, self._checks, self._remove = file, checks, remove
        self._thread: threading.Thread | None = None

    def run(self) -> bool:
        """Compare now; gives whether the pixels are whole."""
        try:
            with open_own(self._file) as stream:
                self.damaged = not self._is_whole(stream.fileno())
        except OSError:  # what cannot be read is not whole
            self.damaged = True
        if self.damaged:
            self._remove()
        return not self.damaged

    def start(self) -> None:
        """Compare in a thread that leaves the processor to everyone else."""
        self._thread = threading.Thread(target=self._run_behind, name="verify cache", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until all is compared."""
        if self._thread is not None:
            self._thread.join()

    def _run_behind(self) -> None:
        with contextlib.suppress(OSError, AttributeError):  # AttributeError: a system without priorities of threads
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST_PRIORITY)
        self.run()

    def _is_whole(self, descriptor: int) -> bool:
        state = os.fstat(descriptor)
        known = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
        if known not in _verified and first_damaged_block(descriptor, self._checks) is not None:
            return False
        _verified.add(known)
        return True
