"""Graceful handling of SIGTERM, SIGINT and others: a training run stops at a position it can resume from."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from diffusion_lab.runs.folder import RunStopped
from diffusion_lab.runtime.exit_codes import EXIT_CODES, signals_to_handle


class StopRequest:
    """Request to stop a run, made by a signal.

    Until training begins a signal ends the run at once: there is nothing to save. From then on the first one is
    recorded, and ``GracefulStop`` ends the run at the next position that can be saved. A second SIGINT ends it at once;
    a second one of another kind has no effect.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.training = False
        self._listening = False
        self._deferred: list[int] | None = None

    def listen(self) -> None:
        """Install the signal handlers, which only the main thread can do."""
        if threading.current_thread() is threading.main_thread():
            self._listening = True
            for number in signals_to_handle():
                signal.signal(number, self._handle)

    def begin(self) -> None:
        """Record that training has begun."""
        self.training = True
        self.listen()  # again, because Lightning has installed its own handler of SIGTERM

    @contextlib.contextmanager
    def deferred(self) -> Iterator[Callable[[], bool]]:
        """Only record signals inside the context; yields a function that returns whether one was received."""
        before, self._deferred = self._deferred, []
        if self._listening:
            self.listen()  # again, because Lightning may have installed its own handlers
        try:
            yield lambda: bool(self._deferred)
        finally:
            self._deferred = before

    def stopped(self, step: int | None = None) -> RunStopped:
        """Return the exception that ends the process with the exit code of the signal."""
        assert self.received is not None
        return RunStopped(f"asked to by {self.received.name}", EXIT_CODES[self.received], step)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._deferred is not None:
            self._deferred.append(number)
            self.received = self.received or signal.Signals(number)
            return
        is_repeated = self.received is not None
        if not is_repeated or number == signal.SIGINT:
            self.received = signal.Signals(number)
        if not self.training or (is_repeated and number == signal.SIGINT):
            raise self.stopped()
        if not is_repeated:
            # Not through sys.stderr, which the signal may have interrupted.
            with contextlib.suppress(OSError):  # the other end may be closed
                # Progress on a terminal has two lines, and draws over as many, however they came there.
                end = "\n\n" if os.isatty(2) else "\n"
                os.write(2, f"\n{signal.Signals(number).name}: finishing this step, then saving{end}".encode())


@contextlib.contextmanager
def handle_signals() -> Iterator[StopRequest]:
    """Handle the signals inside the context, and restore the previous handlers afterwards."""
    before = {number: signal.getsignal(number) for number in EXIT_CODES}
    stop = StopRequest()
    stop.listen()
    try:
        yield stop
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)
