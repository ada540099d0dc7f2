"""Console format of warnings and errors: ``Warning: …`` or ``Error: …``, complete sentences, no source lines."""

from __future__ import annotations

import errno
import logging
import os
import sys
import warnings
from pathlib import Path

from diffusion_lab.console.terminal import printable
from diffusion_lab.console.warning_display import set_warning_display

PACKAGE = Path(__file__).resolve().parents[1]
PROJECT = PACKAGE.parent
PROJECT_NAME = __name__.partition(".")[0]
INSTALLED = ("site-packages", "dist-packages")
ENDS = tuple(".!?:…")

ADVICE = {
    errno.EACCES: "choose another path, or have its owner permit it",
    errno.EPERM: "choose another path, or have its owner permit it",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "a part of the path is a file: choose another path",
    errno.EISDIR: "name a file in it",
    errno.EEXIST: "choose another path, or move the existing one away",
    errno.ELOOP: "a link leads back to itself: remove it",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EROFS: "choose a path on a disk that can be written",
    errno.ENOSPC: "free some space, or choose a path on another disk",
    errno.EDQUOT: "free some of your quota, or choose a path on another disk",
    errno.EFBIG: "raise the limit on file sizes, ulimit -f",
    errno.EMFILE: "raise the limit on open files, ulimit -n",
    errno.ENFILE: "end other programs: the system has too many open files",
    errno.EAGAIN: "end other processes, or raise their limit, ulimit -u",
    errno.EIO: "the disk fails: check it",
    errno.ESTALE: "the server of the file system lost it: mount it again",
}
"""Advice for operating system errors, by number."""


def sentence(text: object) -> str:
    """Return a string that is safe to print and ends in a full stop, unless it ends in text to paste or a list.

    These are indented lines, and lines after one that ends in a colon.

    >>> sentence("data.paths.train must exist")
    'data.paths.train must exist.'
    >>> sentence("1 setting is wrong:" + chr(10) + "  training.epochs = 0: must be at least 1")
    '1 setting is wrong:\\n  training.epochs = 0: must be at least 1'
    """
    shown = printable(text).rstrip()
    before, _, last = shown.rpartition("\n")
    ended = not last or last.startswith(" ") or last.endswith(ENDS) or before.endswith(":")
    return shown if ended else f"{shown}."


def explain(error: BaseException) -> str:
    """Return the message of an error; for one of the operating system, the file, the reason and advice.

    >>> explain(FileNotFoundError(errno.ENOENT, "No such file or directory", "flowers"))
    'flowers cannot be used: no such file or directory (check the path)'
    """
    if not isinstance(error, OSError) or error.errno is None or not error.strerror:
        return str(error) or type(error).__name__
    advice = ADVICE.get(error.errno, "check the file and its disk")
    reason = f"{error.strerror[0].lower()}{error.strerror[1:]} ({advice})"
    if error.filename is None:
        return f"the operating system reported an error: {reason}"
    files = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    return f"{' and '.join(files) or error.filename} cannot be used: {reason}"


def show_plain_warnings() -> None:
    """Print all further warnings without category and source line, which do not help the user of a command."""
    set_warning_display(_print_warning)


def _print_warning(warning: warnings.WarningMessage) -> None:
    source = _source(warning.filename, warning.lineno)
    message = warning.message
    text = " ".join(str(message).split()) if source else message  # libraries wrap and indent lines arbitrarily
    print(f"Warning: {sentence(text)}{printable(source)}", file=warning.file or sys.stderr)


def _source(filename: str, lineno: int) -> str:
    """Return the origin of a warning: a library's name, or file and line in user code; empty for this project."""
    path = Path(filename)
    if PACKAGE in path.parents:
        return ""
    if path.is_absolute() and any(name in path.parts for name in INSTALLED):
        inside = max(path.parts.index(name) for name in INSTALLED if name in path.parts) + 1
        return f" [{path.parts[inside].removesuffix('.py')}]"
    if PROJECT in path.parents:
        return ""
    return f" [{filename}:{lineno}]"


def format_own_warnings() -> None:
    """Have Python format the warnings of this project, in any program, as ``Warning: …`` without a source line.

    The format of other warnings, and how warnings are shown, stay unchanged.
    """
    before = warnings.formatwarning

    def formatwarning(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        if category.__module__.partition(".")[0] != PROJECT_NAME:
            return before(message, category, filename, lineno, line)
        return f"Warning: {sentence(message)}\n"

    warnings.formatwarning = formatwarning


class PlainFormatter(logging.Formatter):
    """Format logging records in the same way, without tracebacks, which belong in the run's log.

    Args:
        format: Ignored. Hydra passes the format of its own formatter.
    """

    def __init__(self, format: str = "") -> None:
        super().__init__()

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        return sentence(f"{record.levelname.title()}: {text}") if record.levelno >= logging.WARNING else printable(text)
