"""Folders of the jobs of a sweep, named after the overrides that vary."""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from diffusion_lab.console.redaction import names_secret

FolderT = TypeVar("FolderT", str, None)

MAX_JOB_NAME_LENGTH = 100


def sweep_job_or(folder: FolderT) -> str | FolderT:
    """Return the job's folder inside the sweep's, or ``folder`` outside a multirun."""
    sweep = _sweep()
    return folder if sweep is None else str(Path(sweep.dir, sweep.subdir))


def sweep_name_or(name: str) -> str:
    """Return the name of the sweep's folder, or ``name`` outside a multirun."""
    sweep = _sweep()
    return name if sweep is None else Path(sweep.dir).name


def _sweep() -> Any:
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return None
    return HydraConfig.get().sweep


def job_folder(overrides: Sequence[str], constant: Sequence[str] = ()) -> str:
    """Return a readable, safe folder name for a job of a sweep; equal overrides always give the same name.

    Args:
        overrides: Overrides of the job.
        constant: Keys with the same value in all jobs, which the name omits.

    >>> job_folder(["training.epochs=3", "training.optimizer.learning_rate=1e-3", "sampler=ddim"], ["training.epochs"])
    'sampler-ddim_learning_rate-1e-3'

    A value with characters that are unsafe in a folder name is distinguished by part of its hash:

    >>> job_folder(["name=a/b"]), job_folder(["name=a-b"])
    ('name-a-b-c14cddc0', 'name-a-b')
    """
    parts = []
    for override in sorted(override.lstrip("+~") for override in overrides):
        key, _, value = override.partition("=")
        if names_secret(key, value):
            value = sha256(value.encode()).hexdigest()[:8]
        safe = re.sub(r"[^\w.-]+", " ", value).strip().replace(" ", "-")
        if safe != value:
            safe = "-".join(filter(None, (safe, sha256(value.encode()).hexdigest()[:8])))
        if key not in constant:
            parts.append("-".join(filter(None, (key.split(".")[-1], safe))))
    name = "_".join(parts) or "job"
    if len(name) > MAX_JOB_NAME_LENGTH:
        name = f"{name[: MAX_JOB_NAME_LENGTH - 9]}_{sha256(name.encode()).hexdigest()[:8]}"
    return name
