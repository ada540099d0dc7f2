"""Where metrics go: the run's own file, which is the truth, and W&B and TensorBoard, which mirror it."""

from __future__ import annotations

import contextlib
import json
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from diffusion_lab.config.schema import LoggerSettings


class JsonlLogger(Logger):
    """Writes one JSON object a line to ``metrics.jsonl``, each flushed, so that a killed run keeps every line.

    Args:
        folder: Where the file is.
        resumed_at: Optimizer steps done when the run goes on from a checkpoint. What the file says of later steps is
            dropped, since they come again. None begins a new file.
    """

    def __init__(self, folder: Path, resumed_at: int | None = None) -> None:
        super().__init__()
        self.path = folder / "metrics.jsonl"
        self.started = time.monotonic()
        if self.path.is_file():
            lines = self.path.read_text().splitlines(keepends=True) if resumed_at is not None else []
            self.path.write_text("".join(line for line in lines if _is_before(line, resumed_at or 0)))

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


def _is_before(line: str, step: int) -> bool:
    """Whether a line tells of an earlier step; the half line that a killed run may end in does not."""
    try:
        return int(json.loads(line)["step"]) < step
    except ValueError:
        return False


@contextlib.contextmanager
def open_loggers(
    settings: LoggerSettings,
    folder: Path,
    experiment: str,
    run_name: str,
    config: dict[str, Any],
    resumed_at: int | None = None,
) -> Iterator[list[Logger]]:
    """The run's own logger and those asked for.

    W&B's run is finished whatever happens, so that the next run of this process does not join it.

    Args:
        settings: Which ones.
        folder: Where their files go.
        experiment: Group of the run on W&B, where the settings give none.
        run_name: Its name there.
        config: The resolved settings, shown beside the run.
        resumed_at: Optimizer steps done, where the run goes on from a checkpoint.
    """
    loggers: list[Logger] = [JsonlLogger(folder, resumed_at)]
    if "tensorboard" in settings.backends:
        loggers.append(TensorBoardLogger(save_dir=folder, name="tensorboard", version=""))
    if "wandb" in settings.backends and settings.mode != "disabled":
        loggers.append(_wandb_logger(settings, folder, experiment, run_name, config))
    failed = True
    try:
        yield loggers
        failed = False
    finally:
        for logger in loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.finish(exit_code=int(failed))


def _wandb_logger(
    settings: LoggerSettings, folder: Path, experiment: str, run_name: str, config: dict[str, Any]
) -> WandbLogger:
    import wandb

    # The mode is given to this one run: Lightning's offline=True would set it for the whole process by an
    # environment variable, and so for the later jobs of a sweep.
    try:
        run = wandb.init(
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
    return WandbLogger(experiment=run)


def log_picture(logger: Logger, name: str, picture: Image.Image, step: int) -> None:
    """Show a picture in a logger that can; the others ignore it."""
    if isinstance(logger, WandbLogger):
        logger.log_image(key=name, images=[picture], step=step)
    elif isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image(name, np.asarray(picture.convert("RGB")), step, dataformats="HWC")
