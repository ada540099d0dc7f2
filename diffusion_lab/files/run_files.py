"""Names of the files that describe a run, in its folder."""

from __future__ import annotations

from pathlib import Path

CONFIG = "config.yaml"
"""All settings, resolved."""

ENVIRONMENT = "environment.json"
"""Command line, versions and git commit, and under ``FACTS`` what is known of the run at its start."""

FACTS = "run"
"""Key of ``environment.json``; missing in older run folders."""

STATUS = "status.json"
"""State of the run: running, finished, stopped or failed."""

SUMMARY = "summary.json"
"""Results of a finished run."""

METRICS = "metrics.jsonl"
"""All metrics; in the subfolder for logs, like the following."""

LOG = "run.log"
"""Warnings, and the traceback of a failure."""

WANDB_ID_FILE = "wandb_id"
"""Id of the run on W&B."""

MAX_DEPTH = 4
"""Maximum number of parent folders of a checkpoint in which its run folder is searched for."""


def find_run_folder(checkpoint: Path) -> Path | None:
    """Return the run folder that contains a checkpoint; None if there is none."""
    return next((folder for folder in checkpoint.parents[:MAX_DEPTH] if (folder / CONFIG).is_file()), None)
