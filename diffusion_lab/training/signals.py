"""SIGTERM, SIGINT and others end a training run at a place from which it can go on."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from diffusion_lab.exit_codes import EXIT_CODES, signals_to_handle
from diffusion_lab.run_folder import RunStopped


class StopRequest:
    """Whether a signal asked the run to stop, and which.

    Until training begins a signal ends the run at once: there is nothing to save. From then on the first one is noted,
    and ``GracefulStop`` ends the run at the next place that can be saved. A second SIGINT ends it at once; a second
    one of another kind changes nothing.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.training = False
        self._listening = False
        self._deferred: list[int] | None = None

    def listen(self) -> None:
        """Take over the signals, where that is possible: only the main thread can."""
        if threading.current_thread() is threading.main_thread():
            self._listening = True
            for number in signals_to_handle():
                signal.signal(number, self._handle)

    def begin(self) -> None:
        """Training begins."""
        self.training = True
        self.listen()  # once more, because Lightning has taken SIGTERM for itself

    @contextlib.contextmanager
    def deferred(self) -> Iterator[Callable[[], bool]]:
        """Let signals end nothing for a while; the function that this gives says whether one has come since."""
        before, self._deferred = self._deferred, []
        if self._listening:
            self.listen()  # once more, because Lightning may have taken some for itself
        try:
            yield lambda: bool(self._deferred)
        finally:
            self._deferred = before

    def stopped(self, step: int | None = None) -> RunStopped:
        """The exception that ends the process with the code of the signal."""
        assert self.received is not None
        return RunStopped(f"asked to by {self.received.name}", EXIT_CODES[self.received], step)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._deferred is not None:
            self._deferred.append(number)
            self.received = self.received or signal.Signals(number)
            return
        again = self.received is not None
        if not again or number == signal.SIGINT:
            self.received = signal.Signals(number)
        if not self.training or (again and number == signal.SIGINT):
            raise self.stopped()
        if not again:
            # Not through sys.stderr: it may be in the middle of a line of its own.
            with contextlib.suppress(OSError):  # nobody may be reading any more
                os.write(2, f"\n{signal.Signals(number).name}: finishing this step, then saving\n".encode())


@contextlib.contextmanager
def handle_signals() -> Iterator[StopRequest]:
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
