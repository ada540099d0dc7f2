"""Loggers: ``metrics.jsonl`` in the run folder, the authoritative record, and W&B and TensorBoard, which mirror it."""

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

from diffusion_lab.config.schema import LoggerSettings
from diffusion_lab.files.reading import parse_json, read_regular
from diffusion_lab.files.run_files import METRICS, WANDB_ID_FILE
from diffusion_lab.files.writing import atomic_write
from diffusion_lab.training.mirror import LoggerMirror, Mirror, log_thread_failures, warn
from diffusion_lab.training.signals import StopRequest
from diffusion_lab.training.tensorboard_mirror import TensorBoardMirror
from diffusion_lab.training.wandb_mirror import WandbMirror, finish_seconds, last_step_of, replay, start_run

MAX_METRICS_BYTES = 4 * 2**30
SETTLING_SECONDS = 30.0
"""Metrics logged this long before a kill are assumed to have reached W&B."""

STOPPED_SECONDS = 10.0
"""Longest wait for W&B after a stop request: the scheduler may soon kill the run."""

WANDB_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""Run ids that W&B accepts and that are safe in file names."""


class Continuation(NamedTuple):
    """State of the logs of a run that is resumed in its own folder.

    Args:
        step: Optimizer steps done. Metrics of later ones are dropped, since these steps are done again.
        wandb_id: Id of the run on W&B, if the checkpoint contains it.
        same_results: Whether the repeated steps give bitwise the same results as before.
    """

    step: int
    wandb_id: str | None = None
    same_results: bool = False


class JsonlLogger(Logger):
    """Writes one JSON object per line to ``metrics.jsonl``, flushing each, so that a killed run keeps every line.

    If the disk is full, lines are kept in memory and written once there is space.

    Attributes:
        earlier_lines: Lines of the earlier part of a resumed run, without those of steps that are repeated.
        settled_step: Metrics up to this optimizer step were logged ``SETTLING_SECONDS`` before the earlier part ended.

    Args:
        folder: Folder of the file.
        resumed_at: Optimizer steps done when the run is resumed from a checkpoint: the file and its ``seconds`` are
            continued, and lines of later steps dropped. None starts a new file.
        console: Console for a warning if the file cannot be written.
    """

    def __init__(self, folder: Path, resumed_at: int | None = None, console: Console | None = None) -> None:
        super().__init__()
        self.path = folder / METRICS
        self.console = console or Console(stderr=True)
        earlier = _lines(self.path) if resumed_at is not None else []
        self.earlier_lines = [line for line in earlier if line["step"] < (resumed_at or 0)]
        recent = [line for line in earlier if line["seconds"] > earlier[-1]["seconds"] - SETTLING_SECONDS]
        self.settled_step = min((line["step"] for line in recent), default=0) - 1
        self.started = time.monotonic() - (self.earlier_lines[-1]["seconds"] if self.earlier_lines else 0.0)
        self._pending = [json.dumps(line) + "\n" for line in self.earlier_lines]
        self._has_warned = False
        self._size: int | None = None  # of what this object has written; None until it has replaced an earlier file
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
        self._pending.append(json.dumps(line, default=float) + "\n")  # callbacks may log tensors
        self._write_or_warn()

    def _write_or_warn(self) -> None:
        try:
            self._write()
        except OSError as error:
            if not self._has_warned:
                self._has_warned = True
                warn(
                    self.console,
                    f"{self.path} cannot be written ({error.strerror}): training continues, and metrics are kept in "
                    "memory until there is space",
                )

    def close(self) -> None:
        """Write pending lines, or warn that they are lost."""
        try:
            self._write()
        except OSError as error:
            warn(self.console, f"{len(self._pending)} lines of {self.path} are lost ({error.strerror})")

    def _write(self) -> None:
        content = "".join(self._pending).encode()
        complete = 0  # bytes of complete lines in the file
        if self._size is None:
            with atomic_write(self.path, durable=False) as partial:
                partial.write_bytes(content)
        elif content:
            with self.path.open("ab", buffering=0) as file:
                complete = min(self._size, file.tell())  # fewer if the file was removed meanwhile
                if file.tell() > complete:  # an incomplete line of a failed attempt
                    file.truncate(complete)
                if file.write(content) != len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        else:
            return
        self._size = complete + len(content)
        self._pending.clear()

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the settings are in the run folder's ``config.yaml``."""


def _lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics file, skipping invalid ones such as the incomplete last line of a killed run."""
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
    custom: Iterable[Logger] = (),
) -> Iterator[list[Logger]]:
    """Open ``metrics.jsonl`` and the requested loggers.

    The W&B run is always finished, so that the next run of this process does not join it.

    Args:
        settings: The ``logger`` section.
        folder: Folder of their files.
        experiment: Group of the run on W&B if the settings have none.
        run_name: Name of the run in W&B and TensorBoard.
        config: The resolved settings without secrets, logged with the run.
        continued: State of the logs of a run that is resumed in this folder.
        console: Console for warnings; standard error if None.
        stop: Stop request that ends the wait for W&B.
        metrics: Names of metrics by which TensorBoard compares runs.
        custom: Loggers of custom classes.

    Raises:
        ValueError: W&B refuses the run.
    """
    console = console or Console(stderr=True)
    with log_thread_failures("tensorboard"):
        jsonl = JsonlLogger(folder, continued.step if continued else None, console)
        loggers: list[Logger] = [jsonl]
        if "tensorboard" in settings.backends:
            resumed_at = continued.step if continued else None
            subfolder = folder / "tensorboard"
            loggers.append(TensorBoardMirror(subfolder, run_name, config, metrics, console, resumed_at))
        wandb = None
        if "wandb" in settings.backends and settings.mode != "disabled":
            wandb = _open_wandb(settings, folder, experiment, run_name, config, continued, jsonl, console)
            loggers.extend([wandb] if wandb else [])
        loggers.extend(LoggerMirror(logger, config, console) for logger in custom)
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
    """Return the id of the run on W&B, None if it is not logged there."""
    return next((logger.version for logger in loggers if isinstance(logger, WandbMirror)), None)


def log_image(logger: Logger, name: str, image: Image.Image, step: int) -> None:
    """Log an image if the logger supports it."""
    if isinstance(logger, Mirror):
        logger.log_image(name, image, step)


def _open_wandb(
    settings: LoggerSettings,
    folder: Path,
    experiment: str,
    run_name: str,
    config: dict[str, Any],
    continued: Continuation | None,
    jsonl: JsonlLogger,
    console: Console,
) -> WandbMirror | None:
    run_id, complete_step = _stored_id(folder / WANDB_ID_FILE, continued)
    resumed = continued is not None
    try:
        run = start_run(settings, folder, run_id, settings.group or experiment, run_name, config, resumed)
    except ValueError as error:
        if settings.mode == "online":  # explicitly requested, and nothing is trained yet
            raise
        warn(console, f"{error}. Training continues without W&B, logs/metrics.jsonl has every metric")
        return None
    mirror = WandbMirror(run, console)
    if continued is not None:
        delivered = max(complete_step, jsonl.settled_step)
        if settings.mode == "online":  # the server knows what it has; lines of its last step may be missing
            last = last_step_of(run)
            delivered = complete_step if last is None else max(complete_step, last - 1)
        replay(mirror, [line for line in jsonl.earlier_lines if line["step"] > delivered])
        mirror.delivered_step = delivered if continued.same_results else -1
    return mirror


def _finish(mirror: WandbMirror, failed: bool, stop: StopRequest, id_file: Path) -> None:
    with stop.deferred() as came:
        limit = finish_seconds() if stop.received is None else min(finish_seconds(), STOPPED_SECONDS)
        complete = mirror.finish(failed, limit, came)
    if complete:  # a resumed run need not send it again
        with contextlib.suppress(OSError):
            _write_id(id_file, f"{mirror.version}\n{max(mirror.last_step, mirror.delivered_step)}\n")


def _stored_id(file: Path, continued: Continuation | None) -> tuple[str, int]:
    """Return the id of the run on W&B, and the last step that W&B certainly has, -1 if unknown.

    The id is created once and stored in the run folder, and as a backup in the checkpoints.
    """
    id_in_file, step = _read_id_file(file) if continued else (None, -1)
    known = id_in_file or (continued.wandb_id if continued else None)
    run_id = known if known is not None and WANDB_ID.fullmatch(known) else secrets.token_hex(4)
    if run_id != id_in_file:
        with contextlib.suppress(OSError):  # the checkpoints have it, too
            _write_id(file, run_id + "\n")
    return run_id, step if run_id == id_in_file else -1


def _write_id(file: Path, text: str) -> None:
    with atomic_write(file) as partial:
        partial.write_text(text)


def _read_id_file(file: Path) -> tuple[str | None, int]:
    try:
        words = read_regular(file, 1000).decode().split()
    except (OSError, ValueError):
        return None, -1
    if not words or not WANDB_ID.fullmatch(words[0]):
        return None, -1
    return words[0], int(words[1]) if len(words) > 1 and words[1].isdecimal() and len(words[1]) < 20 else -1
