"""What becomes of a run when a process that loads images dies or hangs: one error that says so, and none left over."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

WORKER_TIMEOUT = 120.0
"""Seconds without a batch after which a loader worker counts as hung, unless the settings say otherwise."""

DIED = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:is killed by signal: (\w+)|exited unexpectedly)")
HUNG = re.compile(r"DataLoader timed out after ([\d.]+) seconds")


@contextlib.contextmanager
def naming_lost_workers() -> Iterator[None]:
    """Tell of a lost loader worker in words of ours; torch has a RuntimeError for it, raised wherever training is.

    Raises:
        ChildProcessError: One died: the kernel does that where memory runs out.
        TimeoutError: None gave a batch for ``data.loading.worker_timeout`` seconds.
    """
    try:
        yield
    except RuntimeError as error:
        died, hung = DIED.search(str(error)), HUNG.search(str(error))
        if died:
            how = f"was killed by signal {died[2]}" if died[2] else "ended unexpectedly"
            raise ChildProcessError(
                f"a process that loads images (process id {died[1].strip()}) {how}; memory may have run out: "
                "lower data.loading.num_workers (0 loads in the main process) or data.loading.batch_size"
            ) from error
        if hung:
            raise TimeoutError(
                f"no process that loads images gave a batch for {float(hung[1]):g} s, "
                "the limit data.loading.worker_timeout: one hangs, or the images lie on a disk too slow for the limit"
            ) from error
        raise
