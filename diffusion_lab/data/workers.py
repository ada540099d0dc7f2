"""The processes that load images: deaf to signals meant for the run, and named in one error if one dies or hangs.

Time counts against them only while the run itself is running: after Ctrl-Z, or a scheduler that suspends a job, all
processes go on where they were.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _BaseDataLoaderIter, _MultiProcessingDataLoaderIter

from diffusion_lab.data.left_out import DataWarning
from diffusion_lab.shapes import Batch

LONGEST_WAIT = 1.0
"""Seconds for which the clock is believed at a time: a wait that was suspended counts as this much, however long."""

WORKER_TIMEOUT = 120.0
"""Seconds without a batch after which a loader worker counts as hung, unless the settings say otherwise."""

START_METHOD = "fork" if sys.platform == "linux" else "spawn"
"""How loader workers are started: by name, because inside another program's worker the default may be one that cannot.

The jobs of Hydra's joblib launcher run where the default is loky's own method, which starts loky's processes alone.
Forking is fast and shares the images with the workers; on macOS its system libraries do not survive it.
"""

NOT_ITERATED = "Please call `iter(combined_loader)` first"
"""What Lightning raises while it cleans up after a loader that could not start, in place of the reason."""

DIED = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:is killed by signal: (\w+)|exited unexpectedly)")
HUNG = re.compile(r"DataLoader timed out after ([\d.]+) seconds")


def set_up_worker(worker: int) -> None:
    """Called in each worker: leave signals, and what is to be said of pictures, to the process that it loads for."""
    warnings.filterwarnings("ignore", category=DataWarning)  # batches carry the pictures that are left out
    _leave_signals_to_the_run()


def _leave_signals_to_the_run() -> None:
    """End only with the process that trains.

    A terminal's Ctrl-C and a scheduler's SIGTERM go to all processes of a run. A worker that died of them would be an
    error in the middle of what the run does to save itself.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS, whose workers still end at SIGTERM
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_the_run_says_so, daemon=True).start()


def _end_when_the_run_says_so() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


class SuspendableLoader(DataLoader[Batch]):
    """A DataLoader whose ``timeout`` measures the time in which this process was running."""

    def _get_iterator(self) -> _BaseDataLoaderIter:
        return _SuspendableIterator(self) if self.num_workers else super()._get_iterator()


class _SuspendableIterator(_MultiProcessingDataLoaderIter):
    def _try_get_data(self, timeout: float = LONGEST_WAIT) -> tuple[bool, Any]:
        """Wait ``timeout`` seconds for a batch, in short waits: only the one that was suspended is over too early."""
        while True:
            wait = min(LONGEST_WAIT, timeout)
            found: tuple[bool, Any] = super()._try_get_data(wait)  # type: ignore[no-untyped-call]
            timeout -= wait
            if found[0] or timeout <= 0:
                return found


def end_hanging_workers() -> None:
    """Kill the processes that load: one that is suspended, or holds its interpreter, would not end by itself."""
    for child in multiprocessing.active_children():
        if child.daemon:  # which Python would end, and wait for, when it exits
            child.kill()


@contextlib.contextmanager
def naming_lost_workers() -> Iterator[None]:
    """Tell of a lost loader worker in words of ours; torch has a RuntimeError for it, raised wherever training is.

    Also raise the reason why a loader could not start, where Lightning has put an error of its own in its place.

    Raises:
        ChildProcessError: One died: the kernel does that where memory runs out.
        TimeoutError: None gave a batch for ``data.loading.worker_timeout`` seconds.
    """
    try:
        yield
    except RuntimeError as error:
        if NOT_ITERATED in str(error) and error.__context__ is not None:
            raise error.__context__ from None
        # Where the signal comes while a batch is waited for, torch tells of it only as the cause of a vaguer error.
        told = f"{error.__cause__}\n{error}"
        died, hung = DIED.search(told), HUNG.search(told)
        if died:
            how = f"was killed by signal {died[2]}" if died[2] else "ended unexpectedly"
            raise ChildProcessError(
                f"a process that loads images (process id {died[1].strip()}) {how}; memory may have run out: "
                "lower data.loading.num_workers (0 loads in the main process) or data.loading.batch_size"
            ) from error
        if hung:
            end_hanging_workers()
            raise TimeoutError(
                f"no process that loads images gave a batch for {float(hung[1]):g} s, the limit "
                "data.loading.worker_timeout: one hangs or is suspended, or the images lie on a disk too slow for the "
                "limit"
            ) from error
        raise
