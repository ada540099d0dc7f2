"""The report of a sweep on W&B: an artifact of a run of its own, in the group of the sweep's jobs."""

from __future__ import annotations

import hashlib
from pathlib import Path

from diffusion_lab.console.command_line import CONF
from diffusion_lab.reports.build import FILE, Report
from diffusion_lab.reports.discovery import find_runs
from diffusion_lab.runtime.wandb_environment import from_environment
from diffusion_lab.tracking.results_run import TrackedRun, failing_with_a_warning, finish_with_a_warning, tracked_run
from diffusion_lab.tracking.wandb_run import Artifact, start_run
from diffusion_lab.tracking.wandb_server import check_reachable


@failing_with_a_warning
def log_sweep_report(folder: Path) -> None:
    """Add the report of a sweep to W&B if its jobs were logged online. A failure gives a warning.

    Args:
        folder: Folder of the sweep.
    """
    job = next((run for run in map(tracked_run, find_runs([folder])) if run is not None), None)
    if job is None or "wandb" not in job.settings.backends:
        return
    if (from_environment("mode") or job.settings.mode) == "online":
        _send(folder, job)


def _send(folder: Path, job: TrackedRun) -> None:
    settings = job.settings.model_copy(update={"name": None, "dir": None, "mode": "online"})
    check_reachable(settings)
    name = folder.resolve().name
    run_id = f"report-{hashlib.sha256(f'{job.group} {name}'.encode()).hexdigest()[:8]}"  # the same if it is resumed
    run = start_run(settings, folder, run_id, job.group, f"report of {name}", {}, resumed=True, job_type="report")
    page = Path(run.settings.sync_dir) / FILE
    artifacts: list[Artifact] = []
    try:
        Report([folder], page, CONF, published_as="finished").write()
        artifacts.append(Artifact("report", "report", page))
    finally:
        finish_with_a_warning(run, artifacts)
