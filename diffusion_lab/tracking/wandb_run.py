"""A run on W&B: start it or resume it, and end it within a time limit."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusion_lab.config.schema import LoggerSettings
from diffusion_lab.console.redaction import without_folders
from diffusion_lab.runtime.home import ensure_home
from diffusion_lab.tracking.axes import STEP

INIT_SECONDS = 30.0
"""Longest wait for wandb.init; W&B's own WANDB_INIT_TIMEOUT overrides it."""

FINISH_SECONDS = 60.0
"""Longest wait for the upload at the end of a run; W&B's own WANDB_FINISH_TIMEOUT overrides it."""

FLUSH_SECONDS = 2.0
"""Longest time until W&B writes metrics to its file."""

MESSAGE_AFTER_SECONDS = 3.0
"""Wait for the upload after which a message explains it."""


def start_run(
    settings: LoggerSettings,
    folder: Path,
    run_id: str,
    group: str,
    run_name: str,
    config: Mapping[str, Any],
    resumed: bool,
    job_type: str | None = "train",
) -> Any:
    """Start a run on W&B, or resume the one with this id. Command line, host, user and folders are not sent.

    Args:
        settings: The ``logger`` section.
        folder: Folder of W&B's files, unless the settings name one.
        run_id: Id of the run.
        group: Its group.
        run_name: Its name, unless the settings have one.
        config: Settings to show, without secrets.
        resumed: Whether a run with this id exists already.
        job_type: Kind of the run, unless WANDB_JOB_TYPE has one; None keeps that of a resumed run.

    Raises:
        ValueError: W&B refuses the run, or does not answer within the limit.
    """
    wandb = wandb_library()
    directory = settings.dir or folder
    shown = config.get("logger") or {}  # without secrets
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # The mode is an argument since an environment variable would also affect later jobs of a sweep.
        run = wandb.init(
            id=run_id,
            resume="allow" if resumed and settings.mode == "online" else None,
            dir=directory,
            mode=settings.mode,
            project=settings.project,
            entity=settings.entity,
            group=group,
            job_type=job_type and (os.environ.get("WANDB_JOB_TYPE") or job_type),
            name=settings.name or run_name,
            # W&B itself reads WANDB_TAGS and WANDB_NOTES. Those of an existing run may have been changed on W&B.
            tags=None if resumed else shown.get("tags", settings.tags) or None,
            notes=None if resumed else shown.get("notes", settings.notes),
            config=without_folders(dict(config)),
            settings=_run_settings(wandb),
            reinit="finish_previous",
        )
    except (wandb.Error, TimeoutError, OSError) as error:
        end_service()
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        reason = getattr(error, "strerror", None) or first_line
        hint = ": see logger.project and logger.entity, or use logger.mode=offline" if settings.mode == "online" else ""
        raise ValueError(f"logger.mode={settings.mode}: W&B cannot start the run {run_id} ({reason}){hint}") from error
    return run


@dataclass(frozen=True)
class Artifact:
    """A file that is added to a run when it ends. It is not copied, and must stay as it is until it is sent.

    Args:
        name: Name of the artifact, to which the id of the run is added.
        kind: Type of the artifact.
        file: The file.
        aliases: Names of this version besides ``latest``.
    """

    name: str
    kind: str
    file: Path
    aliases: tuple[str, ...] = ()

    def add_to(self, run: Any, links: Path) -> None:
        """Add the file to a run; online, this waits for the server.

        Args:
            run: The run.
            links: Folder for a link to the file: online the path in it is sent, instead of one that names folders.
        """
        path = self.file.resolve()
        if run.settings.mode == "online":  # `wandb sync` needs the real path, however much later
            path, target = links / self.kind / path.name, path
            path.parent.mkdir(exist_ok=True)
            path.symlink_to(target)
        artifact = wandb_library().Artifact(f"{self.name}-{run.id}", type=self.kind)
        artifact.add_file(str(path), path.name, policy="immutable", skip_cache=True)
        run.log_artifact(artifact, aliases=["latest", *self.aliases])


def finish_run(
    run: Any,
    failed: bool,
    seconds: float,
    interrupted: Callable[[], bool],
    waits: Callable[[], None],
    artifacts: Sequence[Artifact] = (),
) -> str | None:
    """Add the artifacts of a run and finish it, waiting for the upload within a time limit.

    Args:
        run: The run.
        failed: Whether W&B marks the run as failed.
        seconds: Longest wait.
        interrupted: Polled several times per second: returns whether to stop waiting.
        waits: Called once if the wait is noticeable.
        artifacts: Files to add first.

    Returns:
        Why W&B does not have everything; None if it has.
    """
    outcome: list[BaseException] = []

    def end() -> None:
        try:
            links = Path(tempfile.mkdtemp(prefix="wandb-")) if artifacts else Path()
            for artifact in artifacts:
                artifact.add_to(run, links)
        except Exception as error:
            outcome.append(error)
        try:
            run.finish(exit_code=int(failed))
            if artifacts and not outcome:
                shutil.rmtree(links)
        except BaseException as error:  # reported by the waiting thread
            outcome.append(error)

    thread = threading.Thread(target=end, name="wandb-finish", daemon=True)
    thread.start()
    began = time.monotonic()
    has_waited = False
    while thread.is_alive() and (waited := time.monotonic() - began) < seconds and not interrupted():
        thread.join(0.1)
        if waited > MESSAGE_AFTER_SECONDS and not has_waited:
            has_waited = True
            waits()
    if not thread.is_alive() and not outcome:
        return None
    end_service()
    if outcome:
        return next(iter(str(outcome[0]).splitlines()), type(outcome[0]).__name__)
    return "interrupted by a signal" if interrupted() else f"{seconds:.0f} s were not enough"


def incomplete_upload(run: Any, reason: str) -> str:
    """Describe how to send what W&B does not have."""
    sync = shlex.join(["wandb", "sync", str(run.settings.sync_dir)])
    return f"the upload to W&B is incomplete ({reason}). The rest is on the disk: {sync}"


def last_step_of(run: Any) -> int | None:
    """Return the last optimizer step of a resumed run that the server has metrics of, None if there is none."""
    with contextlib.suppress(Exception):  # a network request
        return int(run.summary.get(STEP))
    return None


def finish_seconds() -> float:
    """Return how long a finished run may wait for W&B."""
    return _limit("WANDB_FINISH_TIMEOUT", FINISH_SECONDS)


def end_service() -> None:
    """Kill W&B's service process, which our exit would otherwise wait for, and reset the library.

    W&B has no public API for it: ``wandb.teardown`` waits for all uploads.
    """
    wandb = wandb_library()
    connection = getattr(wandb.setup(), "_connection", None)
    process = getattr(getattr(connection, "_proc", None), "_process", None)
    if process is not None:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)  # W&B does not wait for a process that is gone, so it would remain a zombie

    def forget() -> None:
        with contextlib.suppress(BaseException):  # its process is gone
            wandb.teardown(exit_code=1)

    thread = threading.Thread(target=forget, name="wandb-teardown", daemon=True)
    thread.start()
    thread.join(5)


def wandb_library() -> Any:
    """Import the library, which takes a second, configured neither to print nor to send reports of its own errors."""
    ensure_home()
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # at exit it would wait for an unreachable server
    import wandb

    wandb.setup(settings=wandb.Settings(silent=True))
    return wandb


def _run_settings(wandb: Any) -> Any:
    return wandb.Settings(
        silent=True,
        console="off",
        host="",
        username="",
        x_disable_meta=True,  # command line, folders, executable
        disable_git=True,
        disable_code=True,
        init_timeout=_limit("WANDB_INIT_TIMEOUT", INIT_SECONDS),
        finish_timeout=finish_seconds(),
        finish_timeout_raises=True,
        x_transaction_log_flush_interval=FLUSH_SECONDS,
    )


def _limit(variable: str, default: float) -> float:
    with contextlib.suppress(ValueError):
        return float(os.environ.get(variable, default)) or default
    return default
