"""Printing: text from other people's files made safe for a terminal, and a standard error that nobody reads."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast


def printable(text: object) -> str:
    r"""Return ``text`` with control characters escaped, so that no escape code in it reaches the terminal.

    Line breaks and tabs stay; letters of any script stay.

    >>> printable("weights\x1b[2J.ckpt")
    'weights\\x1b[2J.ckpt'
    """
    return "".join(_escaped(character) for character in str(text))


def on_one_line(name: object) -> str:
    r"""Return a name from a file as ``printable`` does, line breaks escaped too: no second line can pose as a message.

    >>> on_one_line("a\nError: b.png")
    'a\\nError: b.png'
    """
    return printable(name).replace("\n", "\\n").replace("\t", "\\t")


def _escaped(character: str) -> str:
    if character in "\n\t" or character.isprintable():
        return character
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


@contextlib.contextmanager
def resilient_stderr() -> Iterator[None]:
    """Let no write to standard error fail: its reader may be gone, its disk full, or it was closed from the start.

    What cannot be written is dropped. A closed descriptor is opened on the null device, so that no file that is opened
    later takes its number and receives messages.
    """
    before = sys.stderr
    if isinstance(before, _LastingStream):  # of a caller
        yield
        return
    sys.stderr = cast("TextIO", _LastingStream(before if _is_open(2) else None))
    try:
        yield
    finally:
        sys.stderr = before


def _is_open(descriptor: int) -> bool:
    """Whether a descriptor was open; it is afterwards."""
    try:
        os.fstat(descriptor)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)
        if null != descriptor:
            os.dup2(null, descriptor)
            os.close(null)
        return False
    return True


class _LastingStream:
    """A text stream that drops what its target does not take."""

    def __init__(self, target: TextIO | None) -> None:
        self._target = target

    def write(self, text: str) -> int:
        if self._target is not None:
            with contextlib.suppress(OSError, ValueError):  # ValueError: it was closed
                self._target.write(text)
        return len(text)

    def flush(self) -> None:
        if self._target is not None:
            with contextlib.suppress(OSError, ValueError):
                self._target.flush()

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def isatty(self) -> bool:
        return self._target is not None and self._target.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)
