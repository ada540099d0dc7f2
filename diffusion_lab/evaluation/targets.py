"""Which checkpoints a path means, and where what is made of them goes."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diffusion_lab.checkpoint import file_hash, find_checkpoint
from diffusion_lab.checkpoint.files import is_sweep
from diffusion_lab.console.terminal import printable
from diffusion_lab.faults import shown
from diffusion_lab.files.run_files import CONFIG
from diffusion_lab.sweeps.job_record import FINISHED
from diffusion_lab.sweeps.ranking import read_records

FOLDER = "evaluation"
"""Name of the folder of images and results, inside that of the run or of the sweep."""

ELSEWHERE = Path("outputs", FOLDER)
"""Where the folders are of results that belong to no run."""

LONGEST_NAME = 40
"""Characters of a path's name in the name of a folder of results."""

DEPTH = 4
"""How many folders up from a checkpoint its run folder is looked for."""


@dataclass(frozen=True)
class Target:
    """A checkpoint to evaluate.

    Attributes:
        checkpoint: The file, links followed.
        folder: Where its images go.
        name: What it is called in tables.
        given: The path that means it, and perhaps others.
    """

    checkpoint: Path
    folder: Path
    name: str
    given: Path


def find_targets(paths: Sequence[Path], base_dir: Path | None) -> tuple[list[Target], Path]:
    """Find the checkpoints that paths mean; of a sweep those of all finished jobs.

    Args:
        paths: Checkpoint files, run folders, folders of sweeps.
        base_dir: Folder of images and results; None for that of the run or of the sweep.

    Returns:
        The checkpoints, and the folder of the results.

    Raises:
        FileNotFoundError: A path holds no valid checkpoint.
        ValueError: A sweep has no finished job with a checkpoint, or two paths mean the same checkpoint.
    """
    found: list[tuple[Path, str, Path]] = []
    for path in paths:
        jobs = _jobs(path) if is_sweep(path) else [(find_checkpoint(path).resolve(), _name(path))]
        found += [(checkpoint, name, path) for checkpoint, name in jobs]
    checkpoints = [checkpoint for checkpoint, *_ in found]
    _refuse_twice(checkpoints)
    names = _distinct([name for _, name, _ in found], checkpoints)
    targets = []
    for (checkpoint, _, given), name in zip(found, names, strict=True):
        run = run_folder_of(checkpoint)
        home = base_dir if base_dir is not None else (from_here(run) / FOLDER if run else folder_elsewhere([given]))
        folder = home / f"{checkpoint.stem}-{file_hash(checkpoint)[:8]}"
        targets.append(Target(checkpoint, folder, name, given))
    return targets, base_dir or _results_folder(paths, targets)


def run_folder_of(checkpoint: Path) -> Path | None:
    """Return the folder of the run that a checkpoint lies in; None where it lies in none."""
    return next((folder for folder in checkpoint.parents[:DEPTH] if (folder / CONFIG).is_file()), None)


def from_here(path: Path) -> Path:
    """Return a path relative to the current folder where it lies inside."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _results_folder(paths: Sequence[Path], targets: Sequence[Target]) -> Path:
    if len(paths) == 1:
        return paths[0] / FOLDER if is_sweep(paths[0]) else targets[0].folder.parent
    return folder_elsewhere(paths)


def folder_elsewhere(measured: Sequence[Path], against: Path | None = None) -> Path:
    """Return the folder of results that belong to no run.

    It is the same each time for the same paths, so that an interrupted evaluation finds what is done, and another one
    for other paths, so that no result replaces that of other images.

    Args:
        measured: Images or checkpoints.
        against: What they are compared with, where that is not the data of their run.
    """
    paths = [path.expanduser().resolve() for path in (*measured, *([] if against is None else [against]))]
    told = hashlib.sha256(json.dumps([str(path) for path in paths]).encode("utf-8", "surrogatepass")).hexdigest()[:8]
    names = [re.sub(r"[^\w.+-]+", "_", path.stem if path.suffix == ".npz" else path.name) for path in paths]
    more = f"+{len(measured) - 1}" if len(measured) > 1 else ""
    shown = [f"{names[0][:LONGEST_NAME]}{more}", *([] if against is None else [names[-1][:LONGEST_NAME]])]
    return ELSEWHERE / "-".join([*shown, told])


def _jobs(sweep: Path) -> list[tuple[Path, str]]:
    """The checkpoints of the finished jobs of a sweep; which jobs are left out, is said."""
    found, left_out = [], []
    for name, record in read_records(sweep).items():
        try:
            if record.state != FINISHED:
                raise FileNotFoundError(record.state)
            found.append((find_checkpoint(sweep / name).resolve(), name))
        except FileNotFoundError as error:
            left_out.append(f"{name} ({record.state if record.state != FINISHED else error})")
    if left_out and found:
        print(printable(f"left out of the sweep {sweep}: {', '.join(left_out)}"), file=sys.stderr)
    if not found:
        raise ValueError(
            f"ckpt must be a sweep with a finished training job, got {shown(str(sweep))}: {', '.join(left_out)}"
        )
    return found


def _name(path: Path) -> str:
    return path.stem if path.is_file() else path.resolve().name


def _distinct(names: Sequence[str], checkpoints: Sequence[Path]) -> list[str]:
    """The names; with the run and the step where two would be the same."""
    if len(set(names)) == len(names):
        return list(names)
    return [f"{(run_folder_of(path) or path.parent).name}/{path.stem}" for path in checkpoints]


def _refuse_twice(checkpoints: Sequence[Path]) -> None:
    twice = next((path for place, path in enumerate(checkpoints) if path in checkpoints[:place]), None)
    if twice is not None:
        raise ValueError(f"ckpt must name different checkpoints, got {shown(str(twice))} twice")
