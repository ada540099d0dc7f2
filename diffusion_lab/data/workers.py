"""Loader worker processes, which ignore signals intended for the run; one error explains if one dies or hangs.

Their timeout counts only while the run itself is running: after Ctrl-Z, or if a scheduler suspends a job, all processes
continue where they were.
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

from diffusion_lab.data.skipped_images import DataWarning
from diffusion_lab.shapes import Batch

MAX_WAIT = 1.0
"""Maximum seconds per wait: a wait that was suspended counts as this much, however long it took."""

WORKER_TIMEOUT = 120.0
"""Seconds without a batch after which a loader worker counts as hung, unless the settings say otherwise."""

START_METHOD = "fork" if sys.platform == "linux" else "spawn"
"""Start method of loader workers, set explicitly because the default may not work inside another program's worker.

In the jobs of Hydra's joblib launcher the default is loky's method, which only starts loky's processes. Forking is
fast and shares the images with the workers; on macOS, system libraries do not survive it.
"""

NOT_ITERATED = "Please call `iter(combined_loader)` first"
"""Error that Lightning raises while cleaning up after a loader that could not start, instead of the reason."""

DIED = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:is killed by signal: (\w+)|exited unexpectedly)")
HUNG = re.compile(r"DataLoader timed out after ([\d.]+) seconds")


def set_up_worker(worker: int) -> None:
    """Initialize a worker: leave signals and warnings about images to the process that it loads for."""
    warnings.filterwarnings("ignore", category=DataWarning)  # batches carry the skipped images
    _ignore_signals()


def _ignore_signals() -> None:
    """Exit only with the training process.

    A terminal's Ctrl-C and a scheduler's SIGTERM reach all processes of a run. A worker that died of them would cause
    an error while the run saves its state.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS, whose workers still end at SIGTERM
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_exit_on_sigterm_of_parent, daemon=True).start()


def _exit_on_sigterm_of_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


class SuspendableLoader(DataLoader[Batch]):
    """DataLoader whose ``timeout`` counts only the time in which this process is running."""

    def _get_iterator(self) -> _BaseDataLoaderIter:
        return _SuspendableIterator(self) if self.num_workers else super()._get_iterator()


class _SuspendableIterator(_MultiProcessingDataLoaderIter):
    def _try_get_data(self, timeout: float = MAX_WAIT) -> tuple[bool, Any]:
        """Wait ``timeout`` seconds for a batch, in short waits, of which only a suspended one ends too early."""
        while True:
            wait = min(MAX_WAIT, timeout)
            result: tuple[bool, Any] = super()._try_get_data(wait)  # type: ignore[no-untyped-call]
            timeout -= wait
            if result[0] or timeout <= 0:
                return result


def end_hanging_workers() -> None:
    """Kill the loader processes: one that is suspended or blocked would not end by itself."""
    for child in multiprocessing.active_children():
        if child.daemon:  # Python would terminate, and wait for, these at exit
            child.kill()


@contextlib.contextmanager
def explain_worker_failures() -> Iterator[None]:
    """Explain the failure of a loader worker, for which torch raises a generic RuntimeError at any point of training.

    Also re-raise the reason why a loader could not start, if Lightning has replaced it by its own error.

    Raises:
        ChildProcessError: A worker died, for example killed by the kernel when memory ran out.
        TimeoutError: No worker returned a batch for ``data.loading.worker_timeout`` seconds.
    """
    try:
        yield
    except RuntimeError as error:
        if NOT_ITERATED in str(error) and error.__context__ is not None:
            raise error.__context__ from None
        # If the signal arrives while waiting for a batch, torch reports it only as the cause of a vaguer error.
        message = f"{error.__cause__}\n{error}"
        died, hung = DIED.search(message), HUNG.search(message)
        if died:
            how = f"was killed by signal {died[2]}" if died[2] else "ended unexpectedly"
            raise ChildProcessError(
                f"a process that loads images (process id {died[1].strip()}) {how}; memory may have run out: "
                "lower data.loading.num_workers (0 loads in the main process) or data.loading.batch_size"
            ) from error
        if hung:
            end_hanging_workers()
            raise TimeoutError(
                f"no process that loads images returned a batch for {float(hung[1]):g} s, the limit "
                "data.loading.worker_timeout: one hangs or is suspended, or the images are on a disk too slow for the "
                "limit"
            ) from error
        raise
