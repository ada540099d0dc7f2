"""How warnings and errors look on the console: ``Warning: …`` or ``Error: …``, a sentence that ends, no source line."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path

from diffusion_lab.terminal import printable
from diffusion_lab.warning_display import show_warnings_by

PROJECT = Path(__file__).resolve().parents[1]
INSTALLED = ("site-packages", "dist-packages")
ENDS = tuple(".!?:…")


def sentence(text: object) -> str:
    """Return a text that is safe to print and ends in a full stop, unless what it ends in is to be pasted or is a list.

    Those are indented lines, and lines behind one that ends in a colon.

    >>> sentence("data.paths.train must exist")
    'data.paths.train must exist.'
    >>> sentence("1 setting is wrong:" + chr(10) + "  training.epochs = 0: must be at least 1")
    '1 setting is wrong:\\n  training.epochs = 0: must be at least 1'
    """
    shown = printable(text).rstrip()
    before, _, last = shown.rpartition("\n")
    ended = not last or last.startswith(" ") or last.endswith(ENDS) or before.endswith(":")
    return shown if ended else f"{shown}."


def show_warnings_plainly() -> None:
    """Print warnings from now on without category and source line, which are no help to the one who typed a command."""
    show_warnings_by(_print_warning)


def _print_warning(warning: warnings.WarningMessage) -> None:
    source = _source(warning.filename, warning.lineno)
    message = warning.message
    text = " ".join(str(message).split()) if source else message  # libraries break and indent lines as they like
    print(f"Warning: {sentence(text)}{printable(source)}", file=warning.file or sys.stderr)


def _source(filename: str, lineno: int) -> str:
    """Whose warning it is: a library by its name, the user's own code by its place; nothing for the project's own."""
    path = Path(filename)
    if path.is_absolute() and any(name in path.parts for name in INSTALLED):
        inside = max(path.parts.index(name) for name in INSTALLED if name in path.parts) + 1
        return f" [{path.parts[inside].removesuffix('.py')}]"
    if PROJECT in path.parents:
        return ""
    return f" [{filename}:{lineno}]"


class PlainFormatter(logging.Formatter):
    """Writes a record of the logging module as such a line; its traceback belongs into the run's log.

    Args:
        format: Not read. Hydra hands over that of its own formatter.
    """

    def __init__(self, format: str = "") -> None:
        super().__init__()

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        return sentence(f"{record.levelname.title()}: {text}") if record.levelno >= logging.WARNING else printable(text)
