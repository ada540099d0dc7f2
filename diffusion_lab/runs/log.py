"""``logs/run.log``: log messages and warnings of a run, and the traceback of its failure, without secrets."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path

from diffusion_lab.console.messages import sentence
from diffusion_lab.console.redaction import without_values
from diffusion_lab.console.terminal import printable
from diffusion_lab.console.warning_display import Display, display_warnings_with

RUN_LOG = "diffusion_lab.run"
"""Logger for messages that only go to ``run.log``, because the console gets them in another form."""


@contextlib.contextmanager
def log_to_file(file: Path, secrets: Collection[str] = ()) -> Iterator[logging.Logger]:
    """Write log messages and warnings inside the block to ``file``; yields the logger ``RUN_LOG``.

    If the file cannot be written, this is reported once and has no further effect.

    Args:
        file: The file, which is appended to.
        secrets: Strings that it may not contain.
    """
    own = logging.getLogger(RUN_LOG)
    own.propagate = False
    handler = _handler(file)
    handler.setFormatter(_Redacting(secrets))
    for logger in (logging.getLogger(), own):
        logger.addHandler(handler)
    before, logging.raiseExceptions = logging.raiseExceptions, False  # W&B has a log file, too, on the same disk
    try:
        with _log_warnings(own):
            yield own
    finally:
        logging.raiseExceptions = before
        for logger in (logging.getLogger(), own):
            logger.removeHandler(handler)
        with contextlib.suppress(OSError):
            handler.close()


def is_complete_log(log: logging.Logger) -> bool:
    """Return whether the file of a logger from ``log_to_file`` contains all its messages."""
    files = [handler for handler in log.handlers if isinstance(handler, _RunLogHandler)]
    return bool(files) and not any(handler.lost for handler in files)


class _RunLogHandler(logging.FileHandler):
    """File handler that reports once if it cannot write."""

    lost = False

    def handleError(self, record: logging.LogRecord) -> None:
        if not self.lost:
            self.lost = True
            _report_lost(Path(self.baseFilename), sys.exc_info()[1])


def _handler(file: Path) -> logging.Handler:
    try:
        return _RunLogHandler(file)
    except OSError as error:
        _report_lost(file, error)
        return logging.NullHandler()


def _report_lost(file: Path, error: BaseException | None) -> None:
    reason = getattr(error, "strerror", None) or error
    effect = "so warnings are only shown on standard error; the run continues"
    print(sentence(f"Warning: {file} cannot be written ({reason}), {effect}"), file=sys.stderr)


class _Redacting(logging.Formatter):
    """Formatter that replaces secrets and removes escape codes."""

    def __init__(self, secrets: Collection[str]) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self.secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        return printable(without_values(super().format(record), self.secrets))


@contextlib.contextmanager
def _log_warnings(log: logging.Logger) -> Iterator[None]:
    """Log each warning that is shown."""

    def show_and_log(warning: warnings.WarningMessage, show: Display) -> None:
        show(warning)
        if warning.file is None:
            text = warnings.formatwarning(
                str(warning.message), warning.category, warning.filename, warning.lineno, warning.line
            )
            log.warning("%s", text.rstrip())

    with display_warnings_with(show_and_log):
        yield
