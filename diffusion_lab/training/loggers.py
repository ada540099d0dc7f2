"""Where metrics go: the run's own file, which is the truth, and W&B and TensorBoard, which mirror it."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import secrets
import time
from argparse import Namespace
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image
from rich.console import Console

from diffusion_lab.atomic_files import atomic_write
from diffusion_lab.config.schema import LoggerSettings
from diffusion_lab.run_files import METRICS, WANDB_ID_FILE
from diffusion_lab.safe_files import parse_json, read_regular
from diffusion_lab.training.mirror import Mirror, failing_threads_in_log, warn
from diffusion_lab.training.signals import StopRequest
from diffusion_lab.training.tensorboard_mirror import TensorBoardMirror
from diffusion_lab.training.wandb_mirror import WandbMirror, finish_seconds, last_step_of, replay, start_run

MAX_METRICS_BYTES = 4 * 2**30
SETTLING_SECONDS = 30.0
"""Metrics told this long before a kill are taken to have reached W&B."""

STOPPED_SECONDS = 10.0
"""Longest wait for W&B when the run was told to stop: the scheduler may soon kill it."""

WANDB_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""Ids that W&B takes for a run, and that are safe in the name of a file."""


class Continuation(NamedTuple):
    """What the loggers know of a run that is resumed in its own folder.

    Args:
        step: Optimizer steps done. What was told of later ones is forgotten, since they come again.
        wandb_id: Of the run on W&B, where the checkpoint tells it.
        same_results: Whether those steps come out as they did before, bit by bit.
    """

    step: int
    wandb_id: str | None = None
    same_results: bool = False


class JsonlLogger(Logger):
    """Writes one JSON object a line to ``metrics.jsonl``, each flushed, so that a killed run keeps every line.

    Where the disk is full, lines are kept and written once there is room.

    Attributes:
        kept: The lines of the earlier part of a resumed run, those that come again dropped.
        settled_step: Metrics up to this optimizer step were told ``SETTLING_SECONDS`` before the earlier part ended.

    Args:
        folder: Where the file is.
        resumed_at: Optimizer steps done when the run is resumed from a checkpoint, and with it the file and its
            seconds. What the file says of later steps is dropped. None begins a new file.
        console: Where it is told that the file cannot be written.
    """

    def __init__(self, folder: Path, resumed_at: int | None = None, console: Console | None = None) -> None:
        super().__init__()
        self.path = folder / METRICS
        self.console = console or Console(stderr=True)
        earlier = _lines(self.path) if resumed_at is not None else []
        self.kept = [line for line in earlier if line["step"] < (resumed_at or 0)]
        recent = [line for line in earlier if line["seconds"] > earlier[-1]["seconds"] - SETTLING_SECONDS]
        self.settled_step = min((line["step"] for line in recent), default=0) - 1
        self.started = time.monotonic() - (self.kept[-1]["seconds"] if self.kept else 0.0)
        self._waiting = [json.dumps(line) + "\n" for line in self.kept]
        self._told_of_failure = False
        self._size: int | None = None  # of what this object has written; None until it has replaced what it found
        if self.path.is_file():
            self._write_or_warn()

    @property
    def name(self) -> str:
        return "jsonl"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        line = {"step": step, "seconds": round(time.monotonic() - self.started, 3), **metrics}
        self._waiting.append(json.dumps(line) + "\n")
        self._write_or_warn()

    def _write_or_warn(self) -> None:
        try:
            self._write()
        except OSError as error:
            if not self._told_of_failure:
                self._told_of_failure = True
                warn(
                    self.console,
                    f"{self.path} cannot be written ({error.strerror}): training goes on, and metrics are kept in "
                    "memory until there is room",
                )

    def close(self) -> None:
        """Write what waits, or say what is lost."""
        try:
            self._write()
        except OSError as error:
            warn(self.console, f"{len(self._waiting)} lines of {self.path} are lost ({error.strerror})")

    def _write(self) -> None:
        content = "".join(self._waiting).encode()
        whole = 0  # bytes of the file that are whole lines
        if self._size is None:
            with atomic_write(self.path, lasting=False) as partial:
                partial.write_bytes(content)
        elif content:
            with self.path.open("ab", buffering=0) as file:
                whole = min(self._size, file.tell())  # fewer where somebody removed the file meanwhile
                if file.tell() > whole:  # half a line, of an attempt that failed
                    file.truncate(whole)
                if file.write(content) != len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        else:
            return
        self._size = whole + len(content)
        self._waiting.clear()

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the settings are in the run folder's ``config.yaml``."""


def _lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of metrics; what is no line of metrics, such as the half one of a killed run, is left out."""
    try:
        content = read_regular(path, MAX_METRICS_BYTES)
    except OSError:
        return []
    lines = []
    for text in content.splitlines():
        with contextlib.suppress(ValueError):
            line = parse_json(text, str(path))
            if isinstance(line, dict) and _is_count(line.get("step")) and _is_time(line.get("seconds")):
                lines.append(line)
    return lines


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@contextlib.contextmanager
def open_loggers(
    settings: LoggerSettings,
    folder: Path,
    experiment: str,
    run_name: str,
    config: dict[str, Any],
    continued: Continuation | None = None,
    console: Console | None = None,
    stop: StopRequest | None = None,
    metrics: tuple[str, ...] = (),
) -> Iterator[list[Logger]]:
    """Open the run's own logger and those asked for.

    W&B's run is finished whatever happens, so that the next run of this process does not join it.

    Args:
        settings: Which ones.
        folder: Where their files go.
        experiment: Group of the run on W&B, where the settings give none.
        run_name: Its name in W&B and TensorBoard.
        config: The resolved settings, without secrets, shown beside the run.
        continued: Of a run that is resumed in this folder.
        console: Where failures are told; standard error where None.
        stop: Signals that end the wait for W&B.
        metrics: Names of metrics by which TensorBoard compares runs.

    Raises:
        ValueError: W&B refuses the run.
    """
    console = console or Console(stderr=True)
    with failing_threads_in_log("tensorboard"):
        own = JsonlLogger(folder, continued.step if continued else None, console)
        loggers: list[Logger] = [own]
        if "tensorboard" in settings.backends:
            resumed_at = continued.step if continued else None
            place = folder / "tensorboard"
            loggers.append(TensorBoardMirror(place, run_name, config, metrics, console, resumed_at))
        wandb = None
        if "wandb" in settings.backends and settings.mode != "disabled":
            wandb = _open_wandb(settings, folder, experiment, run_name, config, continued, own, console)
            loggers.extend([wandb] if wandb else [])
        failed = True
        try:
            yield loggers
            failed = False
        finally:
            for logger in loggers:
                if isinstance(logger, JsonlLogger | TensorBoardMirror):
                    logger.close()
            if wandb is not None:
                _finish(wandb, failed, stop or StopRequest(), folder / WANDB_ID_FILE)


def wandb_id(loggers: Iterable[Logger]) -> str | None:
    """Return the id of the run on W&B, None where it is not sent there."""
    return next((logger.version for logger in loggers if isinstance(logger, WandbMirror)), None)


def log_image(logger: Logger, name: str, picture: Image.Image, step: int) -> None:
    """Show a picture in a logger that can; the others ignore it."""
    if isinstance(logger, Mirror):
        logger.log_image(name, picture, step)


def _open_wandb(
    settings: LoggerSettings,
    folder: Path,
    experiment: str,
    run_name: str,
    config: dict[str, Any],
    continued: Continuation | None,
    own: JsonlLogger,
    console: Console,
) -> WandbMirror | None:
    run_id, complete_step = _kept_id(folder / WANDB_ID_FILE, continued)
    resumed = continued is not None
    try:
        run = start_run(settings, folder, run_id, settings.group or experiment, run_name, config, resumed)
    except ValueError as error:
        if settings.mode == "online":  # which was asked for, and nothing is trained yet
            raise
        warn(console, f"{error}. Training goes on without W&B, logs/metrics.jsonl has every metric")
        return None
    mirror = WandbMirror(run, console)
    if continued is not None:
        delivered = max(complete_step, own.settled_step)
        if settings.mode == "online":  # which knows what it got; of its last step it may lack a line
            last = last_step_of(run)
            delivered = complete_step if last is None else max(complete_step, last - 1)
        replay(mirror, [line for line in own.kept if line["step"] > delivered])
        mirror.delivered_step = delivered if continued.same_results else -1
    return mirror


def _finish(mirror: WandbMirror, failed: bool, stop: StopRequest, id_file: Path) -> None:
    with stop.deferred() as came:
        limit = finish_seconds() if stop.received is None else min(finish_seconds(), STOPPED_SECONDS)
        complete = mirror.finish(failed, limit, came)
    if complete:  # a resumed run need not send again what is there
        with contextlib.suppress(OSError):
            id_file.write_text(f"{mirror.version}\n{max(mirror.last_step, mirror.delivered_step)}\n")


def _kept_id(file: Path, continued: Continuation | None) -> tuple[str, int]:
    """The id of the run on W&B, and the last step that W&B has for certain, -1 where that is unknown.

    The id is made once, and kept in the run folder, and in the checkpoints in case it is lost.
    """
    told, step = _told_in(file) if continued else (None, -1)
    known = told or (continued.wandb_id if continued else None)
    kept = known if known is not None and WANDB_ID.fullmatch(known) else secrets.token_hex(4)
    if kept != told:
        with contextlib.suppress(OSError):  # the checkpoints tell it, too
            file.write_text(kept + "\n")
    return kept, step if kept == told else -1


def _told_in(file: Path) -> tuple[str | None, int]:
    try:
        words = read_regular(file, 1000).decode().split()
    except (OSError, ValueError):
        return None, -1
    if not words or not WANDB_ID.fullmatch(words[0]):
        return None, -1
    return words[0], int(words[1]) if len(words) > 1 and words[1].isdecimal() and len(words[1]) < 20 else -1
