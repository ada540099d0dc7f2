"""The order of a sweep's results, best first, among those that measure the same."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from diffusion_lab.config.comparable import difference
from diffusion_lab.config.faults import shown
from diffusion_lab.config.job_record import FINISHED, JobRecord

Records = Mapping[str, JobRecord]
"""Records by the name of the job's folder."""

Refused = list[tuple[str, JobRecord]]
"""Refused jobs, each with the folder that holds the finished job of other settings."""


def read_records(sweep: Path) -> dict[str, JobRecord]:
    """The records of all jobs in the folder of a sweep, those of earlier commands included."""
    found = {job.name: JobRecord.read(job) for job in sorted(sweep.iterdir()) if job.is_dir()}
    return {name: record for name, record in found.items() if record is not None}


def refused_in(records: Records, sweep: str | None) -> Refused:
    """Return the jobs that one command was refused."""
    found = [(name, record.refused()) for name, record in records.items()]
    return [(name, refused) for name, refused in found if refused is not None and refused.sweep == sweep]


def ranked(records: Records) -> list[list[str]]:
    """The finished jobs with a result, in groups of comparable ones; each group has its best value first."""
    groups: list[tuple[JobRecord, list[tuple[float, str]]]] = []  # what is sorted is the lower the better
    for name, record in records.items():
        value = record.best_value
        if record.state != FINISHED or value is None or not math.isfinite(value) or record.measured is None:
            continue
        if record.measured.get("training.validation.mode") == "max":
            value = -value
        alike = [members for first, members in groups if first.measured == record.measured]
        if alike:
            alike[0].append((value, name))
        else:
            groups.append((record, [(value, name)]))
    return [[name for _, name in sorted(members)] for _, members in groups]


def apart(records: Records, groups: list[list[str]]) -> list[str]:
    """For each group, in words, what its results measure and those of the others do not."""
    return difference([records[group[0]].measured or {} for group in groups])


def best_job(sweep: Path) -> Path:
    """The folder of the best job of a sweep.

    Raises:
        ValueError: No job has a result, or there are several bests, whose values measure different things.
    """
    records = read_records(sweep)
    groups = ranked(records)
    if not groups:
        raise ValueError(
            f"the sweep {shown(str(sweep))} has no finished job with a value to compare: name a job's folder"
        )
    if len(groups) > 1:
        lines = [f"  {sweep / group[0]} ({why})" for group, why in zip(groups, apart(records, groups), strict=True)]
        raise ValueError(
            f"the jobs of {shown(str(sweep))} cannot all be compared, since {records[groups[0][0]].metric} measures "
            "different things in them; name the best of one kind:\n" + "\n".join(lines)
        )
    return sweep / groups[0][0]
