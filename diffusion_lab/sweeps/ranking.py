"""Ranking of a sweep's results, best first, among those that measure the same."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from diffusion_lab.faults import shown
from diffusion_lab.sweeps.comparable import difference
from diffusion_lab.sweeps.job_record import FINISHED, JobRecord

Records = Mapping[str, JobRecord]
"""Records by name of the job's folder."""

Refused = list[tuple[str, JobRecord]]
"""Refused jobs, each with the folder that contains a finished job with other settings."""


def read_records(sweep: Path) -> dict[str, JobRecord]:
    """Return the records of all jobs in the folder of a sweep, including those of earlier commands."""
    records = {job.name: JobRecord.read(job) for job in sorted(sweep.iterdir()) if job.is_dir()}
    return {name: record for name, record in records.items() if record is not None}


def refused_in(records: Records, sweep: str | None) -> Refused:
    """Return the jobs of one command that were refused."""
    candidates = [(name, record.refused()) for name, record in records.items()]
    return [(name, refused) for name, refused in candidates if refused is not None and refused.sweep == sweep]


def ranked(records: Records) -> list[list[str]]:
    """Return the finished jobs with a result in groups of comparable ones, each with its best value first."""
    groups: list[tuple[JobRecord, list[tuple[float, str]]]] = []  # sorted values: lower is better
    for name, record in records.items():
        value = record.best_value
        if record.state != FINISHED or value is None or not math.isfinite(value) or record.measured is None:
            continue
        if record.measured.get("training.validation.mode") == "max":
            value = -value
        matching = [members for first, members in groups if first.measured == record.measured]
        if matching:
            matching[0].append((value, name))
        else:
            groups.append((record, [(value, name)]))
    return [[name for _, name in sorted(members)] for _, members in groups]


def group_descriptions(records: Records, groups: list[list[str]]) -> list[str]:
    """Return a description of what the results of each group measure, as far as it differs from the others."""
    return difference([records[group[0]].measured or {} for group in groups])


def best_job(sweep: Path) -> Path:
    """Return the folder of the best job of a sweep.

    Raises:
        ValueError: No job has a result, or the results measure different things, so that there are several best jobs.
    """
    records = read_records(sweep)
    groups = ranked(records)
    if not groups:
        raise ValueError(
            f"the sweep {shown(str(sweep))} has no finished job with a value to compare: name a job's folder"
        )
    if len(groups) > 1:
        lines = [
            f"  {sweep / group[0]} ({why})"
            for group, why in zip(groups, group_descriptions(records, groups), strict=True)
        ]
        raise ValueError(
            f"the jobs of {shown(str(sweep))} cannot all be compared, since {records[groups[0][0]].metric} measures "
            "different things in them; name the best of one kind:\n" + "\n".join(lines)
        )
    return sweep / groups[0][0]
