"""How Python shows warnings: ``warnings.showwarning``, replaced for good or for a block."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import TextIO

Display = Callable[[warnings.WarningMessage], None]


def show_warnings_by(display: Display) -> None:
    """Show every warning by ``display`` from now on; its ``file`` is None unless the caller names a stream."""

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
def warnings_shown_by(display: Callable[[warnings.WarningMessage, Display], None]) -> Iterator[None]:
    """Show every warning by ``display`` until the end of the block.

    Args:
        display: Gets the warning, and what showed warnings before, to be called for those that it passes on.
    """
    before = warnings.showwarning

    def show_as_before(warning: warnings.WarningMessage) -> None:
        before(warning.message, warning.category, warning.filename, warning.lineno, warning.file, warning.line)

    show_warnings_by(lambda warning: display(warning, show_as_before))
    try:
        yield
    finally:
        warnings.showwarning = before
