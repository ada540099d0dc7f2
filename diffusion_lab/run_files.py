"""The names of the files that explain a run, in the folder of each run."""

from __future__ import annotations

CONFIG = "config.yaml"
"""All settings, resolved."""

ENVIRONMENT = "environment.json"
"""Command line, versions and git commit."""

STATUS = "status.json"
"""Whether the run is running, finished, stopped or failed."""

SUMMARY = "summary.json"
"""What a finished run came to."""

METRICS = "metrics.jsonl"
"""Every metric; in the subfolder of logs, like the following."""

LOG = "run.log"
"""Warnings, and the traceback of a failure."""

WANDB_ID_FILE = "wandb_id"
"""The id of the run on W&B."""
