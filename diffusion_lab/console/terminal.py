"""Terminal output: text from untrusted files made safe to print, and writes to standard error that never fail."""

from __future__ import annotations

import contextlib
import os
import re
import select
import sys
import textwrap
from collections.abc import Iterator
from typing import Any, TextIO, cast

PIPE_CLOSED = 141
"""Exit code after standard output was closed: 128 + SIGPIPE, as the shell counts."""


def printable(text: object) -> str:
    r"""Return ``text`` with control characters escaped, so that no escape code in it reaches the terminal.

    Line breaks, tabs and letters of any script are kept.

    >>> printable("weights\x1b[2J.ckpt")
    'weights\\x1b[2J.ckpt'
    """
    return "".join(_escaped(character) for character in str(text))


def on_one_line(name: object) -> str:
    r"""Return a name as ``printable`` does, with line breaks escaped too, so that no second line can fake a message.

    >>> on_one_line("a\nError: b.png")
    'a\\nError: b.png'
    """
    return printable(name).replace("\n", "\\n").replace("\t", "\\t")


def folded(text: str, width: int) -> str:
    """Break lines that are wider than a terminal between words, and indent what follows.

    It is indented as the text of a line after its name, which two spaces or more separate from it; by two if there is
    no name. Words that are too long, such as paths, stay whole.

    >>> print(folded("model       0.76 M parameters, 0.0325 GFLOP", 36))
    model       0.76 M parameters,
                0.0325 GFLOP
    """
    lines = []
    for line in text.split("\n"):
        name = re.match(r"(?:\S+(?: \S+)*  +)|(?: +)", line)
        indent = " " * (2 if name is None else name.end())
        start = line[: 0 if name is None else name.end()]
        lines += textwrap.wrap(
            line[len(start) :],
            width,
            initial_indent=start,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        ) or [line]
    return "\n".join(lines)


def _escaped(character: str) -> str:
    if character in "\n\t" or character.isprintable():
        return character
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


@contextlib.contextmanager
def resilient_stderr() -> Iterator[None]:
    """Keep writes to standard error from failing if its reader is gone, its disk full, or it was closed at start.

    Output that cannot be written is dropped. A closed descriptor is opened on the null device, so that no file opened
    later gets its number and receives messages.
    """
    before = sys.stderr
    if isinstance(before, _ResilientStream):  # installed by a caller
        yield
        return
    sys.stderr = cast("TextIO", _ResilientStream(before if _is_open(2) else None))
    try:
        yield
    finally:
        sys.stderr = before


@contextlib.contextmanager
def quiet_broken_pipe() -> Iterator[None]:
    """End the program without a traceback if the reader of standard output is gone, as after ``| head -1``.

    Raises:
        SystemExit: With 141, the code of programs that SIGPIPE ends.
    """
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _has_no_reader(sys.stdout):
            raise  # another pipe, such as that of a data loader's worker
        # The interpreter flushes once more at exit, which must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(PIPE_CLOSED) from None


def _has_no_reader(stream: TextIO) -> bool:
    """Return whether a stream writes to a pipe whose other end is closed."""
    try:
        poll = select.poll()
        poll.register(stream, 0)  # errors are always reported
    except (OSError, ValueError):
        return False
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _is_open(descriptor: int) -> bool:
    """Return whether a descriptor was open; afterwards it is."""
    try:
        os.fstat(descriptor)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)
        if null != descriptor:
            os.dup2(null, descriptor)
            os.close(null)
        return False
    return True


class _ResilientStream:
    """Text stream that drops output which its target does not accept."""

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
