"""Replacing ``warnings.showwarning``, permanently or inside a block."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import TextIO

Display = Callable[[warnings.WarningMessage], None]


def set_warning_display(display: Display) -> None:
    """Show all further warnings with ``display``; a warning's ``file`` is None unless the caller names a stream."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        display(warnings.WarningMessage(message, category, filename, lineno, file, line))

    warnings.showwarning = show


@contextlib.contextmanager
def display_warnings_with(display: Callable[[warnings.WarningMessage, Display], None]) -> Iterator[None]:
    """Show warnings with ``display`` inside the block.

    Args:
        display: Receives the warning and the previous display, to call for warnings that it passes on.
    """
    before = warnings.showwarning

    def show_as_before(warning: warnings.WarningMessage) -> None:
        before(warning.message, warning.category, warning.filename, warning.lineno, warning.file, warning.line)

    set_warning_display(lambda warning: display(warning, show_as_before))
    try:
        yield
    finally:
        warnings.showwarning = before
