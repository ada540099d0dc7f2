"""Which run folders a report is about: run folders, sweeps, and folders that contain runs at some depth."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from diffusion_lab.faults import shown
from diffusion_lab.files.run_files import CONFIG, ENVIRONMENT, METRICS, STATUS, SUMMARY
from diffusion_lab.sweeps.job_record import RECORD

DEPTH = 4
"""Levels below a named folder at which runs are found: OUTPUTS/EXPERIMENT/RUN, and sweeps one level deeper."""


def is_run(folder: Path) -> bool:
    """Return whether a folder contains files that only a training run writes, or the record of a job."""
    if (folder / RECORD).is_file() or (folder / STATUS).is_file() or (folder / "logs" / METRICS).is_file():
        return True
    return (folder / CONFIG).is_file() and ((folder / ENVIRONMENT).is_file() or (folder / SUMMARY).is_file())


def find_runs(targets: Sequence[Path]) -> list[Path]:
    """Return the run folders in and below the given ones, each once, in order of targets and names.

    Raises:
        ValueError: A target does not exist, or there is no run in it.
    """
    found: dict[Path, Path] = {}
    for target in targets:
        if not target.exists():
            raise ValueError(f"there is no folder {shown(str(target))}")
        if not target.is_dir():
            raise ValueError(f"{shown(str(target))} is a file: name a run folder, a sweep, or a folder of runs")
        runs = list(_runs_in(target, DEPTH))
        if not runs:
            raise ValueError(
                f"{shown(str(target))} contains no run: name a run folder, a sweep, or a folder of runs "
                f"(at most {DEPTH} levels below it)"
            )
        for run in runs:
            found.setdefault(run.resolve(), run)
    return list(found.values())


def _runs_in(folder: Path, depth: int) -> Iterator[Path]:
    if is_run(folder):
        yield folder
        return
    if depth == 0:
        return
    try:
        entries = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False))
    except OSError:
        return
    for name in entries:
        if not name.startswith("."):
            yield from _runs_in(folder / name, depth - 1)


def names_of(folders: Sequence[Path]) -> list[str]:
    """Return a short, unique name of each folder: its path below the folder that all of them share.

    >>> names_of([Path("out/digits/a"), Path("out/emoji/a")])
    ['digits/a', 'emoji/a']
    >>> names_of([Path("out/digits/a")])
    ['a']
    """
    paths = [Path(os.path.abspath(folder)) for folder in folders]
    if len(paths) == 1:
        return [paths[0].name]
    common = Path(os.path.commonpath([path.parent for path in paths]))
    return [path.relative_to(common).as_posix() for path in paths]
