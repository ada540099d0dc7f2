"""Recording of a run in its folder and its loggers."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from lightning.pytorch.loggers import Logger
from rich.console import Console

from diffusion_lab.console.redaction import secret_values
from diffusion_lab.runs.folder import Purpose, RunFolder
from diffusion_lab.tracking.axes import ImagesSeen
from diffusion_lab.training.anomalies import naming_last_good_checkpoint
from diffusion_lab.training.conclusion import concluding
from diffusion_lab.training.console import quiet_lightning
from diffusion_lab.training.loggers import Continuation, open_loggers
from diffusion_lab.training.prepare import PreparedRun
from diffusion_lab.training.resume import same_results
from diffusion_lab.training.signals import StopRequest


@contextlib.contextmanager
def recording(
    run: PreparedRun, folder: RunFolder, purpose: Purpose, console: Console, stop: StopRequest
) -> Iterator[list[Logger]]:
    """Record the status of the run, its warnings and its failure in the folder; yields the loggers of its metrics."""
    config, source = run.config, run.source
    continued = None
    if purpose == "continue" and source is not None:
        continued = Continuation(source.step or 0, source.wandb_id, same_results(config, source))
    with (
        folder.running(secret_values(config.model_dump(mode="json"), sys.argv)),
        naming_last_good_checkpoint(folder.base),
        open_loggers(
            config.logger,
            folder.logs,
            config.experiment,
            folder.base.resolve().name,
            run.settings,
            continued,
            console,
            stop,
            _compared_metrics(run),
            run.loggers,
            _images_seen(run, continued),
            {name: null.value for name, null in run.evaluation.null.items()} if run.evaluation else None,
        ) as loggers,
        concluding(loggers, folder.base, console, stop),
        quiet_lightning(),
    ):
        yield loggers


def _compared_metrics(run: PreparedRun) -> tuple[str, ...]:
    """Return the names of the metrics by which TensorBoard compares runs, the one that ranks them first."""
    losses = ["val/loss"] if run.data.val is not None else []
    quality = run.evaluation.names if run.evaluation else ()
    return tuple(dict.fromkeys([run.config.training.validation.logged_metric, *losses, "train/loss", *quality]))


def _images_seen(run: PreparedRun, continued: Continuation | None) -> ImagesSeen:
    """Return the counter of the images seen, also for a run that continues with another batch size."""
    loading, source = run.config.data.loading, run.source
    epoch = min(len(run.data.train), run.data.steps_per_epoch * loading.batch_size)
    step = loading.batch_size * run.config.training.accumulate_batches
    if continued is None or source is None:
        return ImagesSeen(epoch, step)
    within = source.position.samples_seen if source.position else 0
    return ImagesSeen(epoch, step, continued.step, (source.epochs_done or 0) * epoch + within)
