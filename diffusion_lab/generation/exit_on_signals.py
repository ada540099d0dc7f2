"""Leaving when told to: SIGTERM and Ctrl-C end a program with one line and the exit code that shells know."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

from diffusion_lab.terminal import printable

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PATIENCE = 5.0
"""Seconds that a program gets to leave in good order; then a further signal ends it at once."""


class Terminated(BaseException):
    """SIGTERM came. No Exception, so that nothing takes it for a fault and goes on."""


@contextlib.contextmanager
def exit_on_signals() -> Iterator[None]:
    """End with 143 after SIGTERM and 130 after Ctrl-C, with one line on standard error and no traceback.

    The line says what the notes of the exception do. A second signal while leaving changes nothing. In other threads
    than the main one, where Python takes no signals, nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    told: list[tuple[int, float]] = []

    def leave(number: int, frame: FrameType | None) -> None:
        if told:
            if time.monotonic() - told[0][1] > PATIENCE:
                os._exit(128 + told[0][0])
            return
        told.append((number, time.monotonic()))
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated

    before = {number: signal.signal(number, leave) for number in SIGNALS}
    try:
        yield
    except BaseException as stop:
        if not told:  # else whatever comes out comes of it: an import that is interrupted fails as an import
            raise
        name = "Ctrl-C" if told[0][0] == signal.SIGINT else "SIGTERM"
        notes = "; ".join(getattr(stop, "__notes__", ()))
        print(printable(f"\nStopped by {name}{': ' if notes else ''}{notes}"), file=sys.stderr)
        raise SystemExit(128 + told[0][0]) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
