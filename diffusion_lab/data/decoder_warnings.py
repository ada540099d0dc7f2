"""Warnings of Pillow during decoding, with the file that they are about."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

from diffusion_lab.console.warning_display import Display, display_warnings_with

PILLOW = r"PIL\."
"""Modules that issue such warnings, as a regular expression."""

_decoded = threading.local()
_collected: list[dict[Path, str]] = []
"""Active collections of warnings, the innermost last."""


@contextlib.contextmanager
def decoding(file: Path) -> Iterator[None]:
    """Name the file that this thread decodes. Warnings are kept only if decoding succeeds."""
    _decoded.warnings = []
    try:
        yield
        if _collected and _decoded.warnings:
            _collected[-1][file] = _decoded.warnings[0]
    finally:
        _decoded.warnings = None


@contextlib.contextmanager
def collect_decoder_warnings() -> Iterator[dict[Path, str]]:
    """Collect the warnings of all threads inside ``decoding``: the first one for each file."""
    collected: dict[Path, str] = {}

    def collect(warning: warnings.WarningMessage, show: Display) -> None:
        messages = getattr(_decoded, "warnings", None)
        if messages is None:
            show(warning)
        else:
            messages.append(" ".join(str(warning.message).split()))

    with warnings.catch_warnings(), display_warnings_with(collect):
        warnings.simplefilter("always")
        _collected.append(collected)
        try:
            yield collected
        finally:
            _collected.remove(collected)


def ignore_decoder_warnings() -> None:
    """Silence warnings of Pillow in this process about images that were checked and reported before.

    A filter is added only if there is none yet: each addition makes Python repeat all warnings that it shows once.
    """
    known = (getattr(module, "pattern", module) for _, _, _, module, _ in warnings.filters)
    if PILLOW not in known:
        warnings.filterwarnings("ignore", category=UserWarning, module=PILLOW)
