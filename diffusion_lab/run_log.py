"""``logs/run.log``: what is logged and warned of during a run, and the traceback of its failure; no secrets."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path

from diffusion_lab.messages import sentence
from diffusion_lab.redaction import without_values
from diffusion_lab.terminal import printable
from diffusion_lab.warning_display import Display, display_warnings_with

RUN_LOG = "diffusion_lab.run"
"""Logger of what ``run.log`` alone hears, because the console is told in other words."""


@contextlib.contextmanager
def recorded(file: Path, secrets: Collection[str] = ()) -> Iterator[logging.Logger]:
    """Write to ``file`` what is logged and warned of until the end of the block; gives the logger ``RUN_LOG``.

    That the file cannot be written is said once, and ends nothing.

    Args:
        file: It is appended to.
        secrets: Texts that it may not hold.
    """
    own = logging.getLogger(RUN_LOG)
    own.propagate = False
    handler = _handler(file)
    handler.setFormatter(_Redacting(secrets))
    for logger in (logging.getLogger(), own):
        logger.addHandler(handler)
    before, logging.raiseExceptions = logging.raiseExceptions, False  # W&B has a log file, too, on the same disk
    try:
        with _warnings_recorded(own):
            yield own
    finally:
        logging.raiseExceptions = before
        for logger in (logging.getLogger(), own):
            logger.removeHandler(handler)
        with contextlib.suppress(OSError):
            handler.close()


def is_complete_log(log: logging.Logger) -> bool:
    """Return whether the file behind a logger of ``recorded`` holds all that it was given."""
    files = [handler for handler in log.handlers if isinstance(handler, _RunLogHandler)]
    return bool(files) and not any(handler.lost for handler in files)


class _RunLogHandler(logging.FileHandler):
    """Says once that nothing can be written."""

    lost = False

    def handleError(self, record: logging.LogRecord) -> None:
        if not self.lost:
            self.lost = True
            _say_lost(Path(self.baseFilename), sys.exc_info()[1])


def _handler(file: Path) -> logging.Handler:
    try:
        return _RunLogHandler(file)
    except OSError as error:
        _say_lost(file, error)
        return logging.NullHandler()


def _say_lost(file: Path, error: BaseException | None) -> None:
    why = getattr(error, "strerror", None) or error
    text = f"Warning: {file} cannot be written ({why}), which ends no run; warnings are shown on standard error alone"
    print(sentence(text), file=sys.stderr)


class _Redacting(logging.Formatter):
    """Writes a placeholder for secrets, and no escape codes."""

    def __init__(self, secrets: Collection[str]) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self.secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        return printable(without_values(super().format(record), self.secrets))


@contextlib.contextmanager
def _warnings_recorded(log: logging.Logger) -> Iterator[None]:
    """Have each warning that is shown recorded as well."""

    def show_and_record(warning: warnings.WarningMessage, show: Display) -> None:
        show(warning)
        if warning.file is None:
            text = warnings.formatwarning(
                str(warning.message), warning.category, warning.filename, warning.lineno, warning.line
            )
            log.warning("%s", text.rstrip())

    with display_warnings_with(show_and_record):
        yield
