"""SIGTERM, SIGINT and SIGUSR1 end a training run at a place from which it can go on."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from diffusion_lab.exit_codes import EXIT_CODES
from diffusion_lab.run_folder import RunStopped


class StopRequest:
    """Whether a signal asked the run to stop, and which.

    Until training begins a signal ends the run at once: there is nothing to save. From then on the first one is noted,
    and ``Stopping`` ends the run at the next place that can be saved. A second SIGINT ends it at once; a second
    SIGTERM or SIGUSR1 changes nothing.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.training = False

    def listen(self) -> None:
        """Take over the signals, where that is possible: only the main thread can."""
        if threading.current_thread() is threading.main_thread():
            for number in EXIT_CODES:
                signal.signal(number, self._handle)

    def begin(self) -> None:
        """Training begins."""
        self.training = True
        self.listen()  # once more, because Lightning has taken SIGTERM for itself

    def stopped(self, step: int | None = None) -> RunStopped:
        """The exception that ends the process with the code of the signal."""
        assert self.received is not None
        return RunStopped(f"asked to by {self.received.name}", EXIT_CODES[self.received], step)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again = self.received is not None
        if not again or number == signal.SIGINT:
            self.received = signal.Signals(number)
        if not self.training or (again and number == signal.SIGINT):
            raise self.stopped()
        if not again:
            # Not through sys.stderr: it may be in the middle of a line of its own.
            os.write(2, f"\n{signal.Signals(number).name}: finishing this step, then saving\n".encode())


@contextlib.contextmanager
def stoppable() -> Iterator[StopRequest]:
    """Listen to the signals; at the end they do what they did before."""
    before = {number: signal.getsignal(number) for number in EXIT_CODES}
    stop = StopRequest()
    stop.listen()
    try:
        yield stop
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)
