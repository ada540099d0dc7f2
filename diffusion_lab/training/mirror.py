"""Base of loggers that mirror ``metrics.jsonl`` and whose failure does not end the run."""

from __future__ import annotations

import contextlib
import logging
import threading
from abc import abstractmethod
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image
from rich.console import Console

from diffusion_lab.console.messages import sentence
from diffusion_lab.runs.log import RUN_LOG
from diffusion_lab.tracking.wandb_run import Artifact


def warn(console: Console, text: str) -> None:
    """Print a warning and write it to ``run.log``."""
    console.print(f"Warning: {sentence(text)}", highlight=False, markup=False, soft_wrap=True)
    logging.getLogger(RUN_LOG).warning(text)


@contextlib.contextmanager
def log_thread_failures(package: str) -> Iterator[None]:
    """Write tracebacks of a library's threads to ``run.log`` instead of the terminal."""
    before = threading.excepthook

    def record(failure: threading.ExceptHookArgs) -> None:
        if type(failure.thread).__module__.partition(".")[0] != package:
            before(failure)
        elif failure.exc_value is not None:
            logging.getLogger(RUN_LOG).error("a thread of %s failed", package, exc_info=failure.exc_value)

    threading.excepthook = record
    try:
        yield
    finally:
        threading.excepthook = before


class Mirror(Logger):
    """Logger that forwards metrics and images until that fails once; it then warns, and training continues without it.

    Args:
        shown_name: Name in messages.
        console: Console for the warning.
    """

    def __init__(self, shown_name: str, console: Console) -> None:
        super().__init__()
        self.shown_name = shown_name
        self.console = console
        self.broken = False

    @property
    def name(self) -> str:
        return self.shown_name

    @property
    def version(self) -> str:
        return ""

    @abstractmethod
    def send_metrics(self, metrics: Mapping[str, Any], step: int) -> None:
        """Forward the metrics of an optimizer step, or raise."""

    @abstractmethod
    def send_image(self, name: str, image: Image.Image, step: int, caption: str = "") -> None:
        """Forward an image, or raise."""

    def send_facts(self, facts: Mapping[str, Any]) -> None:
        """Forward results of the whole run, or raise; does nothing where there is no place for them."""

    def send_alert(self, title: str, text: str) -> None:
        """Notify the user, or raise; does nothing where that is not possible."""

    def send_file(self, artifact: Artifact) -> None:
        """Forward a file when the run ends; does nothing where there is no place for it."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        self.attempt(self.send_metrics, metrics, step or 0)

    def attempt(self, send: Callable[..., None], *arguments: Any) -> None:
        """Call one of the ``send`` methods, unless an earlier call has failed."""
        if not self.broken:
            try:
                send(*arguments)
            except Exception as error:
                self.give_up(error)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: a mirror gets the settings when it is created."""

    def give_up(self, error: BaseException | str) -> None:
        """Stop forwarding, and warn with the reason."""
        self.broken = True
        reason = (
            error if isinstance(error, str) else getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        )
        warn(
            self.console,
            f"{self.shown_name} can no longer be written to ({reason}): training continues without it, "
            "logs/metrics.jsonl has every metric",
        )


class LoggerMirror(Mirror):
    """Custom Lightning logger whose failure does not end the run.

    Args:
        logger: The logger. Its other attributes, such as ``experiment``, are those of the mirror.
        config: The resolved settings, logged as hyperparameters.
        console: Console for the warning.
    """

    def __init__(self, logger: Logger, config: Mapping[str, Any], console: Console) -> None:
        super().__init__(type(logger).__name__, console)
        self.logger = logger
        self.attempt(logger.log_hyperparams, dict(config))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["logger"], name)

    def send_metrics(self, metrics: Mapping[str, Any], step: int) -> None:
        self.logger.log_metrics(dict(metrics), step)

    def send_image(self, name: str, image: Image.Image, step: int, caption: str = "") -> None:
        """Log the image if the logger has this method, which is not part of Lightning's interface."""
        if hasattr(self.logger, "log_image"):
            self.logger.log_image(name, [image], step)

    def save(self) -> None:
        self.attempt(self.logger.save)

    def finalize(self, status: str) -> None:
        self.attempt(self.logger.finalize, status)


def alert(loggers: Iterable[Logger], title: str, text: str) -> None:
    """Notify the user through the loggers that can."""
    for logger in loggers:
        if isinstance(logger, Mirror):
            logger.attempt(logger.send_alert, title, text)
