"""Where metrics go: the run's own file, which is the truth, and W&B and TensorBoard, which mirror it."""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from diffusion_lab.config.schema import LoggerSettings

Told = frozenset[tuple[int, frozenset[str]]]
"""Lines of metrics by their step and the names in them."""


class Continuation(NamedTuple):
    """What the loggers of a run know that goes on in its own folder.

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

    ``forgotten`` holds the lines of a resumed run that were dropped since they come again.

    Args:
        folder: Where the file is.
        resumed_at: Optimizer steps done when the run goes on from a checkpoint, and with it the file and its seconds.
            What the file says of later steps is dropped. None begins a new file.
    """

    def __init__(self, folder: Path, resumed_at: int | None = None) -> None:
        super().__init__()
        self.path = folder / "metrics.jsonl"
        self.forgotten: Told = frozenset()
        earlier = _lines(self.path)
        kept = [line for line in earlier if resumed_at is not None and line["step"] < resumed_at]
        self.started = time.monotonic() - (kept[-1]["seconds"] if kept else 0.0)
        if resumed_at is not None:
            self.forgotten = frozenset(_told(line) for line in earlier) - {_told(line) for line in kept}
        if self.path.is_file():
            partial = self.path.with_name(f".{self.path.name}.partial")
            partial.write_text("".join(json.dumps(line) + "\n" for line in kept))
            partial.replace(self.path)

    @property
    def name(self) -> str:
        return "jsonl"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        line = {"step": step, "seconds": round(time.monotonic() - self.started, 3), **metrics}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The settings stand in the run folder's ``config.yaml`` already."""


def _lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of metrics, without the half one that a killed run may end in."""
    lines = []
    for text in path.read_text().splitlines() if path.is_file() else ():
        with contextlib.suppress(ValueError):
            line = json.loads(text)
            if isinstance(line, dict) and {"step", "seconds"} <= line.keys():
                lines.append(line)
    return lines


def _told(line: dict[str, Any]) -> tuple[int, frozenset[str]]:
    return line["step"], frozenset(line) - {"step", "seconds"}


class WandbMirror(WandbLogger):
    """Sends to W&B what it has not been sent before: a sent line cannot be taken back.

    Args:
        run: The run on W&B.
        sent: The lines that an earlier part of the run sent.
    """

    def __init__(self, run: Any, sent: Told) -> None:
        super().__init__(experiment=run)
        self.sent = sent
        self.last_sent = max((step for step, _ in sent), default=-1)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        of_numbers = all(isinstance(value, int | float) for value in metrics.values())
        # Pictures have no line; a line of a later step shows that theirs was sent.
        known = (step, frozenset(metrics)) in self.sent if of_numbers else (step or 0) < self.last_sent
        if not known:
            super().log_metrics(metrics, step)


@contextlib.contextmanager
def open_loggers(
    settings: LoggerSettings,
    folder: Path,
    experiment: str,
    run_name: str,
    config: dict[str, Any],
    continued: Continuation | None = None,
) -> Iterator[list[Logger]]:
    """The run's own logger and those asked for.

    W&B's run is finished whatever happens, so that the next run of this process does not join it.

    Args:
        settings: Which ones.
        folder: Where their files go.
        experiment: Group of the run on W&B, where the settings give none.
        run_name: Its name there.
        config: The resolved settings, shown beside the run.
        continued: Of a run that goes on in this folder.
    """
    own = JsonlLogger(folder, continued.step if continued else None)
    loggers: list[Logger] = [own]
    if "tensorboard" in settings.backends:
        purge: dict[str, Any] = {"purge_step": continued.step} if continued else {}  # hides what is told again
        loggers.append(TensorBoardLogger(save_dir=folder, name="tensorboard", version="", **purge))
    if "wandb" in settings.backends and settings.mode != "disabled":
        run = _wandb_run(settings, folder, experiment, run_name, config, continued)
        loggers.append(WandbMirror(run, own.forgotten if continued and continued.same_results else frozenset()))
    failed = True
    try:
        yield loggers
        failed = False
    finally:
        for logger in loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.finish(exit_code=int(failed))


def wandb_id(loggers: Iterable[Logger]) -> str | None:
    """The id of the run on W&B, None where it is not sent there."""
    return next((str(logger.experiment.id) for logger in loggers if isinstance(logger, WandbLogger)), None)


def _wandb_run(
    settings: LoggerSettings,
    folder: Path,
    experiment: str,
    run_name: str,
    config: dict[str, Any],
    continued: Continuation | None,
) -> Any:
    import wandb

    # The mode is given to this one run: Lightning's offline=True would set it for the whole process by an
    # environment variable, and so for the later jobs of a sweep.
    try:
        run = wandb.init(
            id=_kept_id(folder / "wandb_id", continued),
            resume="allow" if continued and settings.mode == "online" else None,
            dir=folder,
            mode=settings.mode,
            project=settings.project,
            entity=settings.entity,
            group=settings.group or experiment,
            job_type="train",
            name=run_name,
            config=config,
            settings=wandb.Settings(silent=True, console="off"),
            reinit="finish_previous",
        )
    except wandb.Error as error:
        raise ValueError(
            f"logger.mode {settings.mode} needs a W&B account that can be reached: {error} "
            "(wandb login, or logger.mode=offline)"
        ) from error
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step")
    return run


def _kept_id(file: Path, continued: Continuation | None) -> str:
    """The id of the run on W&B: made once, and kept in the run folder, and in the checkpoints in case it is lost."""
    if continued and file.is_file():
        return file.read_text().strip()
    kept = (continued.wandb_id if continued else None) or secrets.token_hex(4)
    file.write_text(kept + "\n")
    return kept


def log_picture(logger: Logger, name: str, picture: Image.Image, step: int) -> None:
    """Show a picture in a logger that can; the others ignore it."""
    if isinstance(logger, WandbLogger):
        logger.log_image(key=name, images=[picture], step=step)
    elif isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image(name, np.asarray(picture.convert("RGB")), step, dataformats="HWC")
