"""Clean exit on SIGTERM and Ctrl-C, with one line on standard error and the conventional exit code."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

from diffusion_lab.console.terminal import printable

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PATIENCE = 5.0
"""Seconds that a program has for a clean exit; after that, another signal ends it immediately."""


class Terminated(BaseException):
    """Raised on SIGTERM. Not an ``Exception``, so that no handler mistakes it for an error and continues."""


@contextlib.contextmanager
def exit_on_signals() -> Iterator[None]:
    """Exit with code 143 after SIGTERM and 130 after Ctrl-C, with one line on standard error and no traceback.

    The line includes the notes of the exception. A second signal during the exit has no effect. Outside the main
    thread, where Python handles no signals, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[tuple[int, float]] = []

    def leave(number: int, frame: FrameType | None) -> None:
        if received:
            if time.monotonic() - received[0][1] > PATIENCE:
                os._exit(128 + received[0][0])
            return
        received.append((number, time.monotonic()))
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated

    before = {number: signal.signal(number, leave) for number in SIGNALS}
    try:
        yield
    except BaseException as stop:
        if not received:  # else the signal caused it, whatever it is: an interrupted import fails as an import
            raise
        name = "Ctrl-C" if received[0][0] == signal.SIGINT else "SIGTERM"
        notes = "; ".join(getattr(stop, "__notes__", ()))
        print(printable(f"\nStopped by {name}{': ' if notes else ''}{notes}"), file=sys.stderr)
        raise SystemExit(128 + received[0][0]) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
