"""Records for a page that leaves the machine: without user, host, folders, command line and log."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PureWindowsPath

from diffusion_lab.console.command_line import setting
from diffusion_lab.console.redaction import without_folders
from diffusion_lab.reports.records import Job, RunRecord

ABSOLUTE_PATH = re.compile(r"""(?<![^\s'"\[{(,:=])(?:~|/|[A-Za-z]:[\\/])[^'"\]}),]+""")
"""An absolute path, also inside the quotes, lists and mappings of an override."""

KEPT_OF_ENVIRONMENT = ("python", "git_commit", "packages")


def published(run: RunRecord, state: str | None = None) -> RunRecord:
    """Return the record without what names users, machines and folders.

    Args:
        run: The record.
        state: State to show instead of ``running``, for a run that is about to end.
    """
    now = run.status.get("state")
    return replace(
        run,
        folder=Path(run.folder.resolve().name),
        tree=without_folders(run.tree),
        settings=without_folders(run.settings),
        status={"state": state if state is not None and now == "running" else now},
        environment={name: run.environment[name] for name in KEPT_OF_ENVIRONMENT if name in run.environment},
        job=None if run.job is None else _without_folders(run.job),
        log=[],
        commands=list(_commands(run)) if run.has_checkpoint else [],
    )


def _commands(run: RunRecord) -> Iterator[tuple[str, str]]:
    """Yield commands without the folders of this machine, as they are typed next to the run folder."""
    name = run.folder.resolve().name
    checkpoint = shlex.quote(setting("ckpt", name))
    yield "Sample", f"python sample.py {checkpoint}"
    yield "Evaluate", f"python evaluate.py {checkpoint}"
    yield "Sample for this report", f"python report.py {shlex.quote(name)} --sample"


def _without_folders(job: Job) -> Job:
    overrides = tuple(ABSOLUTE_PATH.sub(lambda path: PureWindowsPath(path[0]).name, each) for each in job.overrides)
    return replace(job, overrides=overrides, why=None)
