"""The record of a job of a sweep: what it was asked to do, which process does it, and how it ended."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from diffusion_lab.atomic_files import atomic_write
from diffusion_lab.config.faults import shown
from diffusion_lab.config.job_lock import is_taken
from diffusion_lab.config.settings_reader import leaves
from diffusion_lab.process_identity import is_alive, own_identity
from diffusion_lab.safe_files import read_json

RECORD = "job.json"
RUNNING, FINISHED, FAILED, INTERRUPTED, DIED = "running", "finished", "failed", "interrupted", "died"
REFUSED = "refused"
ABSENT = "nothing"


@dataclass(frozen=True)
class JobProcess:
    """The process that does a job, told apart from others which get its number later or on other machines."""

    host: str
    pid: int
    started: str | None = None
    """Boot of the system and clock tick of the start; None where the system does not tell."""

    @classmethod
    def this(cls) -> JobProcess:
        """The process that asks."""
        return cls(**own_identity())

    def is_alive(self) -> bool | None:
        """Whether it still runs; None where it ran on another machine, whose processes cannot be seen."""
        return is_alive(asdict(self))

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@dataclass(frozen=True)
class Refusal:
    """A job that a command was refused because its folder holds the finished job of other settings."""

    sweep: str | None
    """The command."""
    overrides: tuple[str, ...]
    why: str


@dataclass(frozen=True)
class JobRecord:
    """``job.json`` in the folder of a job."""

    overrides: tuple[str, ...]
    """Those in which the jobs of the sweep may differ."""
    state: str
    settings: dict[str, Any]
    """All that was composed, but for the section ``output``."""
    process: JobProcess | None = None
    """What does it, or did."""
    sweep: str | None = None
    """Which command's job it is, so that the command finds its jobs."""
    why: str | None = None
    metric: str | None = None
    best_value: float | None = None
    measured: dict[str, Any] | None = None
    """What the metric is a measure of: jobs are comparable where this is equal."""
    refusal: Refusal | None = None
    """The last job that was refused because of this one."""

    @classmethod
    def read(cls, folder: Path) -> JobRecord | None:
        """The record in a job's folder, None where there is none that this version can read.

        A job whose process is gone without having said how it ended has died.
        """
        try:
            record = _reader().validate_python(read_json(folder / RECORD))
        except (OSError, ValueError):
            return None
        if record.state != RUNNING or record.runs_in(folder):
            return record
        return replace(record, state=DIED, why="its process ended without a word: killed, or the machine went down")

    def runs_in(self, folder: Path) -> bool:
        """Whether a process is at work on the job; where that cannot be known, it is taken to be."""
        taken = is_taken(folder)
        if taken is not None:
            return taken
        if self.process is None or self.process == JobProcess.this():  # which runs no other job beside this
            return False
        return self.process.is_alive() is not False

    def write(self, folder: Path) -> None:
        """Replace the record in one move."""
        with atomic_write(folder / RECORD) as partial:
            partial.write_text(json.dumps(asdict(self), indent=2) + "\n")

    def refused(self) -> JobRecord | None:
        """The refused job as a record of its own; None where there is none."""
        if self.refusal is None:
            return None
        return JobRecord(self.refusal.overrides, REFUSED, {}, sweep=self.refusal.sweep, why=self.refusal.why)

    def differing(self, settings: Mapping[str, Any]) -> list[str]:
        """The keys whose values were others, in words."""
        then, now = leaves(self.settings), leaves(settings)
        keys = [key for key in now.keys() | then.keys() if now.get(key, ABSENT) != then.get(key, ABSENT)]
        return [f"{key} {shown(then.get(key, ABSENT))}, now {shown(now.get(key, ABSENT))}" for key in sorted(keys)]


@cache
def _reader() -> TypeAdapter[JobRecord]:
    return TypeAdapter(JobRecord)
