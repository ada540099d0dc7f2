"""The end of a sweep: one table of its jobs, one file, and an exit code that tells whether any failed."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from hydra.errors import CompactHydraException

from diffusion_lab.config.sweep import FAILED, FINISHED, JobRecord, SweepCallback

SUMMARY = "sweep.json"
EXIT_CODE_OF_FAILURES = 1
WIDTH_OF_FILES = 160
"""Characters of a line where standard error is no terminal."""


@contextlib.contextmanager
def summed_up() -> Iterator[None]:
    """Around what may be a sweep: show its jobs at its end, also of one that was interrupted.

    Of jobs that failed, Hydra raises the first one's error when all have run; each has told of its own by then.

    Raises:
        SystemExit: Code 1, a job failed.
    """
    try:
        yield
    except CompactHydraException:
        raise  # nothing could be composed, so no job has run
    except Exception as error:
        records = _show()
        if not isinstance(error, ValueError | OSError) and all(record.state != FAILED for record in records):
            raise  # none of a job's
        if SweepCallback.folder is None:
            raise
        raise SystemExit(EXIT_CODE_OF_FAILURES) from error
    except BaseException:
        _show()
        raise
    else:
        _show()


def _show() -> list[JobRecord]:
    """Print and write what the jobs in the sweep's folder came to, those of earlier commands included."""
    folder = SweepCallback.folder
    if folder is None or not folder.is_dir():
        return []
    found = {job.name: JobRecord.read(job) for job in sorted(folder.iterdir()) if job.is_dir()}
    records = {name: record for name, record in found.items() if record is not None}
    _write(folder, records)
    _print(folder, records)
    return list(records.values())


def _write(folder: Path, records: dict[str, JobRecord]) -> None:
    jobs = [
        {
            "folder": name,
            "overrides": record.overrides,
            "state": record.state,
            "metric": record.metric,
            "best_value": record.best_value,
            "why": record.why,
        }
        for name, record in records.items()
    ]
    partial = folder / f".{SUMMARY}.partial"
    partial.write_text(json.dumps(jobs, indent=2) + "\n")
    partial.replace(folder / SUMMARY)


def _print(folder: Path, records: dict[str, JobRecord]) -> None:
    from rich.console import Console  # here: no other command line needs it before the work begins
    from rich.table import Table
    from rich.text import Text

    metric = next((record.metric for record in records.values() if record.metric), "")
    table = Table("job", "state", f"best {metric}".strip(), "why")
    for name, record in records.items():
        value = "" if record.best_value is None else f"{record.best_value:.4g}"
        told = (" ".join(record.overrides) or name, record.state, value, record.why or "")
        table.add_row(*map(Text, told))
    console = Console(stderr=True, width=None if sys.stderr.isatty() else WIDTH_OF_FILES)
    console.print(table)
    finished = sum(record.state == FINISHED for record in records.values())
    hint = "" if finished == len(records) else f"; the rest again: the same command with hydra.sweep.dir={folder}"
    print(f"{folder}: {finished} of {len(records)} jobs finished{hint}", file=sys.stderr)
