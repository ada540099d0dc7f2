"""The run on W&B to which results of ``sample.py`` and ``evaluate.py`` go: that of the checkpoint."""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Literal, ParamSpec

from diffusion_lab.config.schema import LoggerSettings
from diffusion_lab.console.messages import explain, sentence
from diffusion_lab.files.reading import read_regular
from diffusion_lab.files.run_files import CONFIG, WANDB_ID_FILE
from diffusion_lab.reports.yaml_settings import read_yaml
from diffusion_lab.runtime.wandb_environment import from_environment
from diffusion_lab.tracking.wandb_run import (
    Artifact,
    end_service,
    finish_run,
    finish_seconds,
    incomplete_upload,
    start_run,
)
from diffusion_lab.tracking.wandb_server import check_reachable

STAGING = "WANDB_DATA_DIR"

Arguments = ParamSpec("Arguments")
Wanted = Literal["auto", "always", "never"]


@dataclass(frozen=True)
class TrackedRun:
    """Where results go on W&B.

    Attributes:
        settings: The ``logger`` section of the run.
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
def results_run(run_folder: Path | None, wanted: Wanted, job_type: str, results: Path) -> Iterator[Any]:
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
        warn(f"the results are not on W&B: {explain(error)}")
        yield None
        return
    with _neutral_staging(settings.mode == "online"):
        try:
            yield run
        except Exception as error:
            warn(f"the results on W&B are incomplete: {explain(error)}")
        finish_with_a_warning(run)


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


def finish_with_a_warning(run: Any, artifacts: Sequence[Artifact] = ()) -> None:
    """Finish a run, waiting for the upload; a failure gives a warning.

    Args:
        run: The run.
        artifacts: Files to add first.
    """
    seconds = finish_seconds()

    def announce() -> None:
        print(f"waiting up to {seconds:.0f} s for W&B (Ctrl-C ends the wait)", file=sys.stderr)

    try:
        reason = finish_run(run, False, seconds, lambda: False, announce, artifacts)
    except BaseException:  # Ctrl-C, or a signal: the process would wait for the service
        end_service()
        raise
    if reason is not None:
        warn(incomplete_upload(run, reason))


def warn(text: str) -> None:
    """Print a warning; the results are on the disk."""
    print(f"Warning: {sentence(text)}", file=sys.stderr)


def failing_with_a_warning(send: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """Turn any error of a function that sends results into a warning: they are on the disk, and the command is done."""

    @wraps(send)
    def attempt(*arguments: Arguments.args, **options: Arguments.kwargs) -> None:
        try:
            send(*arguments, **options)
        except Exception as error:
            warn(f"the results are not on W&B: {explain(error)}")

    return attempt
