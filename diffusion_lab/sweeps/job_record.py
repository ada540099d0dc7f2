"""The record of a job of a sweep: its overrides, its process and its result."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from diffusion_lab.faults import shown
from diffusion_lab.files.reading import read_json
from diffusion_lab.files.writing import atomic_write
from diffusion_lab.runtime.process_identity import is_alive, own_identity
from diffusion_lab.sweeps.job_lock import is_taken
from diffusion_lab.typed_settings.settings_reader import leaves

RECORD = "job.json"
RUNNING, FINISHED, FAILED, INTERRUPTED, DIED = "running", "finished", "failed", "interrupted", "died"
REFUSED = "refused"
ABSENT = "nothing"


@dataclass(frozen=True)
class JobProcess:
    """Process of a job, distinguishable from processes with the same PID later or on other machines."""

    host: str
    pid: int
    started: str | None = None
    """Boot of the system and clock tick of the start; None if the system does not provide it."""

    @classmethod
    def this(cls) -> JobProcess:
        """Return the current process."""
        return cls(**own_identity())

    def is_alive(self) -> bool | None:
        """Return whether it is still running; None if it is on another machine, whose processes are not visible."""
        return is_alive(asdict(self))

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@dataclass(frozen=True)
class Refusal:
    """A job that was refused because its folder contains a finished job with other settings."""

    sweep: str | None
    """Identifier of the command."""
    overrides: tuple[str, ...]
    why: str


@dataclass(frozen=True)
class JobRecord:
    """``job.json`` in the folder of a job."""

    overrides: tuple[str, ...]
    """Overrides that may vary between the jobs of the sweep."""
    state: str
    settings: dict[str, Any]
    """All composed settings except for the section ``output``."""
    process: JobProcess | None = None
    """Process that runs the job, or ran it."""
    sweep: str | None = None
    """Identifier of the command that the job belongs to."""
    why: str | None = None
    metric: str | None = None
    best_value: float | None = None
    measured: dict[str, Any] | None = None
    """Description of what the metric measures: jobs are comparable if it is equal."""
    refusal: Refusal | None = None
    """The last job that was refused because of this one."""

    @classmethod
    def read(cls, folder: Path) -> JobRecord | None:
        """Return the record in a job's folder, or None if there is none that this version can read.

        A job whose process is gone without having recorded how it ended is ``DIED``.
        """
        try:
            record = _reader().validate_python(read_json(folder / RECORD))
        except (OSError, ValueError):
            return None
        if record.state != RUNNING or record.runs_in(folder):
            return record
        return replace(record, state=DIED, why="its process ended without a message: killed, or the machine crashed")

    def runs_in(self, folder: Path) -> bool:
        """Return whether a process is running the job; true if that cannot be determined."""
        taken = is_taken(folder)
        if taken is not None:
            return taken
        if self.process is None or self.process == JobProcess.this():  # which runs no other job at the same time
            return False
        return self.process.is_alive() is not False

    def write(self, folder: Path) -> None:
        """Replace the record atomically."""
        with atomic_write(folder / RECORD) as partial:
            partial.write_text(json.dumps(asdict(self), indent=2) + "\n")

    def refused(self) -> JobRecord | None:
        """Return the refused job as a separate record, or None."""
        if self.refusal is None:
            return None
        return JobRecord(self.refusal.overrides, REFUSED, {}, sweep=self.refusal.sweep, why=self.refusal.why)

    def differing(self, settings: Mapping[str, Any]) -> list[str]:
        """Return a description of each key with a different value."""
        before, now = leaves(self.settings), leaves(settings)
        keys = [key for key in now.keys() | before.keys() if now.get(key, ABSENT) != before.get(key, ABSENT)]
        return [f"{key} {shown(before.get(key, ABSENT))}, now {shown(now.get(key, ABSENT))}" for key in sorted(keys)]


@cache
def _reader() -> TypeAdapter[JobRecord]:
    return TypeAdapter(JobRecord)
