"""The report of a sweep on W&B: an artifact of a run of its own, in the group of the sweep's jobs."""

from __future__ import annotations

import hashlib
from pathlib import Path

from diffusion_lab.console.command_line import CONF
from diffusion_lab.reports.build import FILE, Report
from diffusion_lab.reports.discovery import find_runs
from diffusion_lab.tracking.results_run import TrackedRun, failing_with_a_warning, tracked_run, warn
from diffusion_lab.tracking.wandb_run import Artifact, finish_run, finish_seconds, incomplete_upload, start_run
from diffusion_lab.tracking.wandb_server import check_reachable


@failing_with_a_warning
def log_sweep_report(folder: Path) -> None:
    """Add the report of a sweep to W&B if its jobs were logged online. A failure gives a warning.

    Args:
        folder: Folder of the sweep.
    """
    job = next((run for run in map(tracked_run, find_runs([folder])) if run is not None), None)
    if job is not None and job.settings.mode == "online" and "wandb" in job.settings.backends:
        reason = _send(folder, job)
        if reason is not None:
            warn(reason)


def _send(folder: Path, job: TrackedRun) -> str | None:
    """Send the report, and return a warning if that was not completed."""
    settings = job.settings.model_copy(update={"name": None, "dir": None})
    check_reachable(settings)
    name = folder.resolve().name
    run_id = f"report-{hashlib.sha256(f'{job.group} {name}'.encode()).hexdigest()[:8]}"  # the same if it is resumed
    run = start_run(settings, folder, run_id, job.group, f"report of {name}", {}, resumed=True, job_type="report")
    page = Path(run.settings.sync_dir) / FILE
    Report([folder], page, CONF, published_as="finished").write()
    artifact = Artifact("report", "report", page)
    reason = finish_run(run, False, finish_seconds(), lambda: False, lambda: None, [artifact])
    return None if reason is None else incomplete_upload(run, reason)
