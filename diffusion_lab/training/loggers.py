"""Loggers: ``metrics.jsonl`` in the run folder, the authoritative record, and W&B and TensorBoard, which mirror it."""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch.loggers import Logger
from PIL import Image
from rich.console import Console

from diffusion_lab.config.schema import LoggerSettings
from diffusion_lab.files.reading import read_regular
from diffusion_lab.files.run_files import WANDB_ID_FILE
from diffusion_lab.files.writing import atomic_write
from diffusion_lab.tracking.axes import Derived, ImagesSeen
from diffusion_lab.tracking.wandb_run import finish_seconds, last_step_of, start_run
from diffusion_lab.training.jsonl_logger import JsonlLogger
from diffusion_lab.training.mirror import LoggerMirror, Mirror, log_thread_failures, warn
from diffusion_lab.training.signals import StopRequest
from diffusion_lab.training.tensorboard_mirror import TensorBoardMirror
from diffusion_lab.training.wandb_mirror import WandbMirror

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
    images: ImagesSeen | None = None,
    nulls: Mapping[str, float] | None = None,
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
        images: Counts the images seen, an axis of W&B.
        nulls: Values of real images in place of samples, by the name of the metric.

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
            derived = Derived(images, nulls or {})
            loggers.append(TensorBoardMirror(subfolder, run_name, config, metrics, console, resumed_at, derived))
        wandb = None
        if "wandb" in settings.backends and settings.mode != "disabled":
            derived = Derived(images, nulls or {})
            wandb = _open_wandb(settings, folder, experiment, run_name, config, continued, jsonl, console, derived)
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


def log_image(logger: Logger, name: str, image: Image.Image, step: int, caption: str = "") -> None:
    """Log an image if the logger supports it."""
    if isinstance(logger, Mirror):
        logger.attempt(logger.send_image, name, image, step, caption)


def log_images(
    loggers: Iterable[Logger], name: str, images: Callable[[], Sequence[tuple[Image.Image, str]]], step: int
) -> None:
    """Log several images with captions where they can be shown side by side; they are drawn only if they can."""
    for logger in loggers:
        if isinstance(logger, WandbMirror) and not logger.broken:
            logger.attempt(logger.send_images, name, images(), step)


def _open_wandb(
    settings: LoggerSettings,
    folder: Path,
    experiment: str,
    run_name: str,
    config: dict[str, Any],
    continued: Continuation | None,
    jsonl: JsonlLogger,
    console: Console,
    derived: Derived,
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
    mirror = WandbMirror(run, console, derived)
    if continued is not None:
        delivered = max(complete_step, jsonl.settled_step)
        if settings.mode == "online":  # the server knows what it has; lines of its last step may be missing
            last = last_step_of(run)
            delivered = complete_step if last is None else max(complete_step, last - 1)
        mirror.replay(line for line in jsonl.earlier_lines if line["step"] > delivered)
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
