"""Checkpoints that paths select, and the folders of their images and results."""

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
from diffusion_lab.files.run_files import find_run_folder
from diffusion_lab.sweeps.job_record import FINISHED
from diffusion_lab.sweeps.ranking import read_records

FOLDER = "evaluation"
"""Name of the folder of images and results in a run folder or sweep folder."""

DEFAULT_PARENT = Path("outputs", FOLDER)
"""Parent folder of results that belong to no run."""

MAX_NAME = 40
"""Maximum number of characters of a path's name in the name of a results folder."""


@dataclass(frozen=True)
class Target:
    """Checkpoint to evaluate.

    Attributes:
        checkpoint: Path of the file, with symbolic links resolved.
        folder: Parent folder of its images.
        name: Name in tables.
        path: Path that selected it, and possibly others.
    """

    checkpoint: Path
    folder: Path
    name: str
    path: Path


def find_targets(paths: Sequence[Path], base_dir: Path | None) -> tuple[list[Target], Path]:
    """Find the checkpoints that paths select; for a sweep, those of all finished jobs.

    Args:
        paths: Checkpoint files, run folders, sweep folders.
        base_dir: Folder of images and results; None for that of the run or of the sweep.

    Returns:
        The checkpoints, and the folder of the results.

    Raises:
        FileNotFoundError: A path contains no valid checkpoint.
        ValueError: A sweep has no finished job with a checkpoint, or two paths select the same checkpoint.
    """
    selected: list[tuple[Path, str, Path]] = []
    for path in paths:
        jobs = _jobs(path) if is_sweep(path) else [(find_checkpoint(path).resolve(), _name(path))]
        selected += [(checkpoint, name, path) for checkpoint, name in jobs]
    checkpoints = [checkpoint for checkpoint, *_ in selected]
    _check_distinct(checkpoints)
    names = _distinct_names([name for _, name, _ in selected], checkpoints)
    targets = []
    for (checkpoint, _, path), name in zip(selected, names, strict=True):
        run = find_run_folder(checkpoint)
        parent = base_dir
        if parent is None:
            parent = relative_to_cwd(run) / FOLDER if run else default_results_folder([path])
        folder = parent / f"{checkpoint.stem}-{file_hash(checkpoint)[:8]}"
        targets.append(Target(checkpoint, folder, name, path))
    return targets, base_dir or _results_folder(paths, targets)


def relative_to_cwd(path: Path) -> Path:
    """Return a path relative to the current folder if it lies inside."""
    cwd = Path.cwd()
    return path.relative_to(cwd) if path.is_relative_to(cwd) else path


def _results_folder(paths: Sequence[Path], targets: Sequence[Target]) -> Path:
    if len(paths) == 1:
        return paths[0] / FOLDER if is_sweep(paths[0]) else targets[0].folder.parent
    return default_results_folder(paths)


def default_results_folder(evaluated: Sequence[Path], reference: Path | None = None) -> Path:
    """Return the default folder of results that belong to no run.

    It is the same for the same paths, so that an interrupted evaluation can be resumed, and different for other paths,
    so that results of other images are not overwritten.

    Args:
        evaluated: Images or checkpoints that are evaluated.
        reference: Images that they are compared with, if not the data of their run.
    """
    paths = [path.expanduser().resolve() for path in (*evaluated, *([] if reference is None else [reference]))]
    digest = hashlib.sha256(json.dumps([str(path) for path in paths]).encode("utf-8", "surrogatepass")).hexdigest()[:8]
    names = [re.sub(r"[^\w.+-]+", "_", path.stem if path.suffix == ".npz" else path.name) for path in paths]
    more = f"+{len(evaluated) - 1}" if len(evaluated) > 1 else ""
    parts = [f"{names[0][:MAX_NAME]}{more}", *([] if reference is None else [names[-1][:MAX_NAME]])]
    return DEFAULT_PARENT / "-".join([*parts, digest])


def _jobs(sweep: Path) -> list[tuple[Path, str]]:
    """Return the checkpoints of the finished jobs of a sweep, and print which jobs are skipped."""
    finished, skipped = [], []
    for name, record in read_records(sweep).items():
        try:
            if record.state != FINISHED:
                raise FileNotFoundError(record.state)
            finished.append((find_checkpoint(sweep / name).resolve(), name))
        except FileNotFoundError as error:
            skipped.append(f"{name} ({record.state if record.state != FINISHED else error})")
    if skipped and finished:
        print(printable(f"skipped jobs of the sweep {sweep}: {', '.join(skipped)}"), file=sys.stderr)
    if not finished:
        raise ValueError(
            f"ckpt must be a sweep with a finished training job, got {shown(str(sweep))}: {', '.join(skipped)}"
        )
    return finished


def _name(path: Path) -> str:
    return path.stem if path.is_file() else path.resolve().name


def _distinct_names(names: Sequence[str], checkpoints: Sequence[Path]) -> list[str]:
    """Return the names, or those of run and checkpoint file if there are duplicates."""
    if len(set(names)) == len(names):
        return list(names)
    return [f"{(find_run_folder(path) or path.parent).name}/{path.stem}" for path in checkpoints]


def _check_distinct(checkpoints: Sequence[Path]) -> None:
    duplicate = next((path for index, path in enumerate(checkpoints) if path in checkpoints[:index]), None)
    if duplicate is not None:
        raise ValueError(f"ckpt must name different checkpoints, got {shown(str(duplicate))} twice")
