"""Results of ``sample.py`` and ``evaluate.py`` on W&B, in the run of the checkpoint."""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from diffusion_lab.checkpoint import find_checkpoint
from diffusion_lab.cli.compose_evaluation import EvaluationRequest
from diffusion_lab.config.schema import GenerateConfig, LoggerSettings
from diffusion_lab.console.messages import explain, sentence
from diffusion_lab.evaluation.command import Evaluation
from diffusion_lab.evaluation.result import Result
from diffusion_lab.evaluation.targets import find_run_folder, find_targets
from diffusion_lab.files.reading import read_regular
from diffusion_lab.files.run_files import CONFIG, WANDB_ID_FILE
from diffusion_lab.generation.completion import Generation
from diffusion_lab.reports.yaml_settings import read_yaml
from diffusion_lab.runtime.wandb_environment import from_environment
from diffusion_lab.tracking.wandb_run import (
    end_service,
    finish_run,
    finish_seconds,
    incomplete_upload,
    start_run,
    wandb_library,
)
from diffusion_lab.tracking.wandb_server import check_reachable

GENERATED = "generated/samples"
TABLE = "evaluation/results"
NEAREST = "evaluation/nearest"
CURVES = "evaluation/curves"
"""Keys on W&B. A metric of an evaluation is ``evaluation/`` and its name: ``evaluation/kid_digits``."""

MOST_IMAGES = 64
"""Images that are sent if there is no grid of them."""

STAGING = "WANDB_DATA_DIR"

COLUMNS = ("samples", "metric", "value", "low", "high", "real images", "better")

Wanted = Literal["auto", "always", "never"]


@dataclass(frozen=True)
class TrackedRun:
    """Where results go on W&B.

    Attributes:
        settings: The ``logger`` section of the run, with the mode of the environment if it has one.
        folder: Folder of W&B's files.
        run_id: Id of the run on W&B.
        group: Its group, if the settings have none.
        name: Its name, if the settings have none.
        is_new: Whether there is no such run yet: results of a checkpoint that was not logged.
    """

    settings: LoggerSettings
    folder: Path
    run_id: str
    group: str
    name: str
    is_new: bool = False


def log_generation(config: GenerateConfig, made: Generation) -> None:
    """Add generated images to the run of their checkpoint, as ``generation.wandb`` says. A failure gives a warning."""
    wanted = config.generation.wandb
    if wanted == "never" or config.generation.checkpoint is None:
        return
    checkpoint = find_checkpoint(config.generation.checkpoint).resolve()
    scales = ", ".join(f"{scale:g}" for scale in config.generation.sampling.scales)
    caption = f"{config.sampler.type}, guidance {scales}, seed {config.compute.seed}, {checkpoint.name}"
    files = [made.grid] if made.grid is not None else sorted(made.folder.glob("*.png"))[:MOST_IMAGES]
    if not files:
        if wanted == "always":
            _warn("generation.wandb=always: there is no image to send (generation.output has neither images nor grid)")
        return
    with _results_in(find_run_folder(checkpoint), wanted, "sample", made.folder) as run:
        if run is not None:
            run.log({GENERATED: [wandb_library().Image(str(file), caption=caption) for file in files]})


def log_evaluation(request: EvaluationRequest, evaluation: Evaluation) -> None:
    """Add results to the runs of their checkpoints, as ``generation.wandb`` says. A failure gives a warning."""
    wanted, folder = request.config.generation.wandb, evaluation.files[0].parent
    if wanted == "never":
        return
    paths = dict.fromkeys(point.config.generation.checkpoint for point in request.points)
    targets, _ = find_targets([path for path in paths if path is not None], request.config.output.base_dir)
    runs = {target.name: find_run_folder(target.checkpoint) for target in targets}
    curves = [file for file in evaluation.files if file.name.startswith("curves")]
    by_run: dict[Path | None, list[Result]] = {}
    for result in evaluation.results:
        by_run.setdefault(runs.get(result.name), []).append(result)
    for run_folder, results in by_run.items():
        with _results_in(run_folder, wanted, "evaluate", folder) as run:
            if run is not None:
                _send_results(run, results, curves if len(by_run) == 1 else [])


def tracked_run(run_folder: Path) -> TrackedRun | None:
    """Return where a run is on W&B; None if it is not there."""
    try:
        tree = read_yaml(run_folder / CONFIG)
        settings = LoggerSettings.model_validate(tree["logger"])
        logs = run_folder / tree["output"]["subdirs"]["logs"]
        run_id = read_regular(logs / WANDB_ID_FILE, 1000).decode().split()[0]
        group = settings.group or tree["experiment"]
    except (OSError, ValueError, LookupError, TypeError):  # an incomplete or a strange run folder
        return None
    return TrackedRun(settings, settings.dir or logs, run_id, group, run_folder.resolve().name)


@contextmanager
def _results_in(run_folder: Path | None, wanted: Wanted, job_type: str, results: Path) -> Iterator[Any]:
    """Open the run of a run folder; yields None if results are not to be sent, or cannot be.

    Args:
        run_folder: The run folder of the checkpoint, if it has one.
        wanted: Whether to send them; ``auto`` if the run was logged online.
        job_type: Kind of a new run, which is started if there is none and they are wanted.
        results: Folder of the results.
    """
    target = tracked_run(run_folder) if run_folder is not None else None
    mode = from_environment("mode") or (target.settings.mode if target else None)
    if mode == "disabled" or (wanted == "auto" and (target is None or mode != "online")):
        yield None
        return
    if target is None:
        settings = LoggerSettings.model_validate({"backends": ["wandb"]})
        group = settings.group or "diffusion_lab"
        target = TrackedRun(settings, results.parent, secrets.token_hex(4), group, results.name, is_new=True)
    settings = target.settings.model_copy(update={"backends": ("wandb",), "mode": mode or target.settings.mode})
    kind = job_type if target.is_new else None
    try:
        check_reachable(settings)
        resumed = not target.is_new
        run = start_run(settings, target.folder, target.run_id, target.group, target.name, {}, resumed, kind)
    except (ValueError, OSError) as error:
        _warn(f"the results are not on W&B: {explain(error)}")
        yield None
        return
    with _neutral_staging(settings.mode == "online"):
        try:
            yield run
        except Exception as error:
            _warn(f"the results on W&B are incomplete: {explain(error)}")
        _finish(run)


@contextmanager
def _neutral_staging(is_online: bool) -> Iterator[None]:
    """Keep the files of tables where their path, which is sent, names no user; offline, they must stay for later."""
    before = os.environ.get(STAGING)
    if not is_online:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="wandb-", ignore_cleanup_errors=True) as folder:
        os.environ[STAGING] = folder
        try:
            yield
        finally:
            os.environ.pop(STAGING)
            if before is not None:
                os.environ[STAGING] = before


def _send_results(run: Any, results: Sequence[Result], curves: Sequence[Path]) -> None:
    wandb = wandb_library()
    table = wandb.Table(columns=list(COLUMNS))
    for result in results:
        numbers = {f"evaluation/{key}": value for key, value in result.varying.items() if _is_number(value)}
        for row in result.rows:
            table.add_data(_title(result), row.name, row.value, row.low, row.high, row.null, row.better)
        run.log({**numbers, **{f"evaluation/{row.name}": row.value for row in result.rows}})
    pictures: Mapping[str, list[Any]] = {
        NEAREST: [
            wandb.Image(result.pictures["nearest"], caption=_title(result))
            for result in results
            if "nearest" in result.pictures
        ],
        CURVES: [wandb.Image(str(file), caption=file.stem) for file in curves],
    }
    run.log({TABLE: table, **{key: images for key, images in pictures.items() if images}})


def _title(result: Result) -> str:
    """Describe how the images were made."""
    made = result.samples
    parts = [made.get("sampler"), f"{made['steps']} steps" if "steps" in made else None]
    parts += [f"{key.rpartition('.')[2]} {value}" for key, value in result.varying.items() if key != "sampler.steps"]
    return ", ".join(str(part) for part in parts if part) or result.name


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _finish(run: Any) -> None:
    seconds = finish_seconds()

    def announce() -> None:
        print(f"waiting up to {seconds:.0f} s for W&B (Ctrl-C ends the wait)", file=sys.stderr)

    try:
        reason = finish_run(run, False, seconds, lambda: False, announce)
    except BaseException:  # Ctrl-C, or a signal: the process would wait for the service
        end_service()
        raise
    if reason is not None:
        _warn(incomplete_upload(run, reason))


def _warn(text: str) -> None:
    print(f"Warning: {sentence(text)}", file=sys.stderr)
