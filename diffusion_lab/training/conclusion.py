"""What dashboards receive at the end of a run: results, denoising strips, checkpoints, the report, or an alert."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from lightning.pytorch.loggers import Logger
from rich.console import Console

from diffusion_lab.console.command_line import CONF
from diffusion_lab.console.messages import explain
from diffusion_lab.reports.build import FILE, Report
from diffusion_lab.runs.folder import RunStopped
from diffusion_lab.runtime.memory import explain_out_of_memory
from diffusion_lab.tracking.wandb_run import Artifact
from diffusion_lab.training.anomalies import NonFiniteError
from diffusion_lab.training.loggers import log_image
from diffusion_lab.training.mirror import Mirror, alert, warn
from diffusion_lab.training.module import DiffusionModule
from diffusion_lab.training.signals import StopRequest
from diffusion_lab.training.summary import TrainingSummary
from diffusion_lab.training.wandb_mirror import WandbMirror

STRIPS = {
    "denoising": "from noise (left) to image (right): what the sampler holds",
    "estimates": "the same moments: what the network believes that the image will be",
}
"""Names of the denoising strips, and their captions."""

STRIP_STEPS = 20
"""Their sampling steps: fewer than in a report on request, for each run waits for them."""


def log_results(loggers: Sequence[Logger], summary: TrainingSummary) -> None:
    """Log the results of a run that are no metrics of a step."""
    names = ("parameters", "train_images", "train_seconds", "images_per_second", "peak_memory_mb")
    facts = {name: getattr(summary, name) for name in (*names, "best_value", "best_epoch")}
    for mirror in _mirrors(loggers):
        mirror.attempt(mirror.send_facts, {name: value for name, value in facts.items() if value is not None})


def log_strips(loggers: Sequence[Logger], module: DiffusionModule, step: int, console: Console) -> None:
    """Sample denoising strips with the final weights and log them; nothing is drawn if no logger shows images."""
    if not _mirrors(loggers):
        return
    from diffusion_lab.reports.sampled import draw_strips

    try:
        with explain_out_of_memory("sampling denoising strips", "they are left out"):
            strips = draw_strips(module.sampler, STRIP_STEPS)
    except (ValueError, RuntimeError, MemoryError) as error:  # the run is complete without them
        warn(console, f"no denoising strips are logged: {explain(error)}")
        return
    for (name, caption), strip in zip(STRIPS.items(), strips, strict=True):
        for logger in loggers:
            log_image(logger, name, strip, step, caption)


def log_checkpoints(loggers: Sequence[Logger], summary: TrainingSummary) -> None:
    """Add the best and the last checkpoint as artifacts where a logger takes files."""
    aliases: dict[Path, list[str]] = {}
    for alias, path in (("best", summary.best_checkpoint), ("last", summary.last_checkpoint)):
        if path is not None:
            aliases.setdefault(Path(path).resolve(), []).append(alias)
    for mirror in _mirrors(loggers):
        for file, names in aliases.items():
            mirror.send_file(Artifact("checkpoint", "model", file, tuple(names)))


@contextlib.contextmanager
def concluding(loggers: Sequence[Logger], run_folder: Path, console: Console, stop: StopRequest) -> Iterator[None]:
    """Add the report of the run as an artifact when the block ends, and alert the user if it ends with a NaN.

    After a signal there is no report: the process must end soon, and the run goes on later.
    """
    try:
        yield
    except (RunStopped, KeyboardInterrupt):
        raise
    except Exception as error:
        if isinstance(error, NonFiniteError):
            alert(loggers, "NaN or infinite loss", f"{run_folder.name}: {error}")
        _log_report(loggers, run_folder, "failed", console)
        raise
    if stop.received is None:
        _log_report(loggers, run_folder, "finished", console)


def _log_report(loggers: Iterable[Logger], run_folder: Path, state: str, console: Console) -> None:
    for mirror in _mirrors(loggers):
        if isinstance(mirror, WandbMirror) and not mirror.broken:
            file = mirror.folder / FILE
            try:
                Report([run_folder], file, CONF, published_as=state).write()
            except Exception as error:  # nothing of the run depends on it
                warn(console, f"W&B gets no report of the run: {explain(error)}")
            else:
                mirror.send_file(Artifact("report", "report", file))


def _mirrors(loggers: Iterable[Logger]) -> list[Mirror]:
    return [logger for logger in loggers if isinstance(logger, Mirror)]
