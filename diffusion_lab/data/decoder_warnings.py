"""What Pillow warns of while it decodes, with the file that it is about."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

from diffusion_lab.warning_display import Display, display_warnings_with

PILLOW = r"PIL\."
"""Modules that warn of pictures, as a regular expression."""

_decoded = threading.local()
_collected: list[dict[Path, str]] = []
"""Where warnings go, the innermost collection last."""


@contextlib.contextmanager
def decoding(file: Path) -> Iterator[None]:
    """Name the file that this thread decodes. What is warned of counts only where that succeeds."""
    _decoded.warnings = []
    try:
        yield
        if _collected and _decoded.warnings:
            _collected[-1][file] = _decoded.warnings[0]
    finally:
        _decoded.warnings = None


@contextlib.contextmanager
def named_decoder_warnings() -> Iterator[dict[Path, str]]:
    """Collect the warnings of all threads that are within ``decoding``: the first one of each file."""
    found: dict[Path, str] = {}

    def collect(warning: warnings.WarningMessage, show: Display) -> None:
        said = getattr(_decoded, "warnings", None)
        if said is None:
            show(warning)
        else:
            said.append(" ".join(str(warning.message).split()))

    with warnings.catch_warnings(), display_warnings_with(collect):
        warnings.simplefilter("always")
        _collected.append(found)
        try:
            yield found
        finally:
            _collected.remove(found)


def ignore_decoder_warnings() -> None:
    """Keep Pillow from warning, in this process, of pictures that were checked and named before.

    A filter is added only where there is none yet: each addition makes Python repeat all warnings that it shows once.
    """
    known = (getattr(module, "pattern", module) for _, _, _, module, _ in warnings.filters)
    if PILLOW not in known:
        warnings.filterwarnings("ignore", category=UserWarning, module=PILLOW)
