"""Summary at the end of a sweep: a table of its jobs, a file, and an exit code that shows whether any failed."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from itertools import count, product
from pathlib import Path
from string import ascii_uppercase

from hydra.errors import CompactHydraException, HydraException

from diffusion_lab.console.command_line import command, setting, typed_command
from diffusion_lab.console.messages import explain, sentence
from diffusion_lab.console.terminal import printable
from diffusion_lab.files.writing import atomic_write
from diffusion_lab.runtime.exit_codes import EXIT_CODE, REPORTED
from diffusion_lab.sweeps.job_record import DIED, FAILED, FINISHED, REFUSED, RUNNING, JobRecord
from diffusion_lab.sweeps.jobs import SweepCallback
from diffusion_lab.sweeps.ranking import Records, Refused, group_descriptions, ranked, read_records, refused_in
from diffusion_lab.sweeps.signals import JobInterrupted, this_sweep

SUMMARY = "sweep.json"
EXIT_CODE_OF_FAILURES = 1
ENDED_SEARCH = "The search ended because a trial failed; with hydra.sweeper.max_failure_rate=1 it continues."
LAUNCHERS = ("joblib", "submitit", "ray")
"""Packages whose errors concern the process of a job."""

WIDTH_OF_FILES = 160
"""Line width if standard error is not a terminal."""


@contextlib.contextmanager
def sweep_summary() -> Iterator[None]:
    """Show the jobs at the end of the body if it was a sweep, even an interrupted one.

    Hydra raises the error of the first failed job when all have run; each has reported its own by then.

    Raises:
        SystemExit: Code 1, a job failed; 2, the sweeper cannot do what was asked for; the code of the signal, if one
            stopped a job in another process.
    """
    try:
        yield
    except CompactHydraException:
        raise  # composition failed, so no job has run
    except HydraException as error:
        print(f"Error: {sentence(_refusal(error))}", file=sys.stderr)
        raise SystemExit(EXIT_CODE) from error
    except JobInterrupted as stop:
        _show(stopped=True)
        raise SystemExit(stop.code) from stop
    except Exception as error:
        if SweepCallback.folder is None:
            raise
        records = _show(stopped=_is_launcher_error(error))  # which then starts no further jobs
        if isinstance(error, ValueError | OSError) or any(record.state == FAILED for record in records):
            if SweepCallback.ends_at_failure:
                print(ENDED_SEARCH, file=sys.stderr)
            if not any(record.state == FAILED for record in records) and not hasattr(error, REPORTED):
                print(f"Error: {sentence(explain(error))}", file=sys.stderr)
            raise SystemExit(EXIT_CODE_OF_FAILURES) from error
        if any(record.state == DIED for record in records) or _is_launcher_error(error):
            print(_lost_process(error), file=sys.stderr)
            raise SystemExit(EXIT_CODE_OF_FAILURES) from error
        raise  # not from a job
    except BaseException:
        _show(stopped=True)
        raise
    else:
        _show()
    finally:
        if SweepCallback.signals is not None:
            SweepCallback.signals.close()


def _refusal(error: HydraException) -> str:
    """Return why a sweeper refuses the arguments."""
    if "INTERVAL_SWEEP" in str(error):
        return (
            "interval(LOW,HIGH) lists no values, so it needs a sweeper that searches: add "
            "hydra/sweeper=optuna, or list values (KEY=0.1,0.2)"
        )
    return str(error)


def _is_launcher_error(error: Exception) -> bool:
    return type(error).__module__.partition(".")[0] in LAUNCHERS


def _lost_process(error: Exception) -> str:
    """Return a message about a job whose process is gone, with the first line of the launcher's error."""
    reason = str(error).strip().partition("\n")[0]
    return sentence(
        f"Error: the process of a job ended without a result, so the launcher ended the other jobs as well ({reason}). "
        "Often a process is killed because memory ran out: fewer jobs at a time (hydra.launcher.n_jobs with joblib) "
        "need less. The same command resumes all jobs that are not finished from their last checkpoints"
    )


def _show(stopped: bool = False) -> list[JobRecord]:
    """Print and write the results of the jobs in the sweep's folder, including those of earlier commands.

    Args:
        stopped: Whether the sweep was stopped, so that some jobs may not have started.
    """
    folder = SweepCallback.folder
    if folder is None or not folder.is_dir():
        return []
    records = read_records(folder)
    if records:
        groups = ranked(records)
        refused = refused_in(records, this_sweep())
        _write(folder, records, groups, refused)
        _print(folder, records, groups, refused, stopped)
    return list(records.values())


def _write(folder: Path, records: Records, groups: list[list[str]], refused: Refused) -> None:
    jobs = []
    for name, record in [*records.items(), *refused]:
        group = (
            None
            if record.state == REFUSED
            else next((number for number, members in enumerate(groups) if name in members), None)
        )
        jobs.append(
            {
                "folder": name,
                "overrides": record.overrides,
                "state": record.state,
                "metric": record.metric,
                "best_value": record.best_value,
                "group": group,
                "rank": None if group is None else groups[group].index(name) + 1,
                "why": record.why,
            }
        )
    with atomic_write(folder / SUMMARY) as partial:
        partial.write_text(json.dumps(jobs, indent=2) + "\n")


def _print(folder: Path, records: Records, groups: list[list[str]], refused: Refused, stopped: bool) -> None:
    from rich.console import Console  # imported here, since no other command needs it at the start
    from rich.table import Table
    from rich.text import Text

    metric = next((record.metric for record in records.values() if record.metric), "")
    table = Table(*(("rank",) if groups else ()), "job", "state", *((f"best {metric}",) if metric else ()), "why")
    ranks = _ranks(groups)
    rows = [*((name, records[name]) for name in ranks), *(row for row in records.items() if row[0] not in ranks)]
    for name, record in [*rows, *refused]:
        value = "" if record.best_value is None else f"{record.best_value:.4g}"
        why = record.why or (f"by {record.process}" if record.state == RUNNING and record.process else "")
        cells = [" ".join(record.overrides) or name, record.state, *((value,) if metric else ()), why]
        if groups:
            cells.insert(0, "" if record.state == REFUSED else ranks.get(name, ""))
        table.add_row(*(Text(printable(text)) for text in cells))
    console = Console(stderr=True, width=None if sys.stderr.isatty() else WIDTH_OF_FILES)
    console.print(table)
    if len(groups) > 1:
        print(f"Ranked within groups only, since {metric} measures something different in each:", file=sys.stderr)
        for letter, why in zip(_letters(), group_descriptions(records, groups), strict=False):
            print(printable(f"  {letter}: {why}"), file=sys.stderr)
    finished = sum(record.state == FINISHED for record in records.values())
    unseen = " (jobs that have not started are not counted)" if stopped else ""
    print(f"{printable(folder)}: {finished} of {len(records) + len(refused)} jobs finished{unseen}", file=sys.stderr)
    if stopped or finished < len(records):
        print(f"run the missing jobs with: {printable(_rerun_command(folder))}", file=sys.stderr)
    if len(groups) == 1 and records[groups[0][0]].settings.get("mode") == "train":
        checkpoint = setting("ckpt", folder)
        print(f"sample from the best job: {printable(command('sample', checkpoint))}", file=sys.stderr)
        print(f"evaluate all finished jobs: {printable(command('evaluate', checkpoint))}", file=sys.stderr)


def _rerun_command(folder: Path) -> str:
    """Return the command that runs the missing jobs."""
    name, arguments = typed_command()
    others = [argument for argument in arguments if not argument.startswith("hydra.sweep.dir=")]
    return command(name, *others, setting("hydra.sweep.dir", folder))


def _ranks(groups: list[list[str]]) -> dict[str, str]:
    """Return the rank of each job, best first: 1, 2, …, or A1, A2, …, B1, … for several groups."""
    if len(groups) == 1:
        return {name: str(rank) for rank, name in enumerate(groups[0], 1)}
    lettered = zip(_letters(), groups, strict=False)
    return {name: f"{letter}{rank}" for letter, names in lettered for rank, name in enumerate(names, 1)}


def _letters() -> Iterator[str]:
    """Yield A, B, …, Z, AA, AB, …"""
    for length in count(1):
        yield from map("".join, product(ascii_uppercase, repeat=length))
