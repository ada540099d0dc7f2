"""Train, sample, evaluate and report: ``python -m benchmarks.quality``.

Everything is saved in outputs/bench/quality: results, curves.png, and one grid per dataset and program. Existing
results are not computed again, so the same command continues after an interruption.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.equal_work import missing_peers
from benchmarks.harness import machine, print_progress
from benchmarks.quality.datasets import DATASETS, write_folders
from benchmarks.quality.evaluator import Point, SnapshotEvaluator
from benchmarks.quality.program import LUCIDRAINS, OURS, PROGRAMS, RESULT, Task
from benchmarks.quality.report import write_report

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "outputs" / "bench" / "quality"


def compare(name: str, base: Path, options: argparse.Namespace) -> list[Point]:
    """Run all programs on a dataset and evaluate their samples."""
    train, held_out = write_folders(name, base / "sets")
    evaluator = SnapshotEvaluator(train, held_out)
    ours = base / name / OURS
    points: list[Point] = []
    for program in options.programs.split(","):
        out = base / name / program
        seconds = options.seconds if program == OURS else _training_seconds(ours)
        task = Task(
            program,
            train,
            out,
            seconds,
            options.images,
            options.steps,
            *evaluator.shape,
            like=None if program == OURS else ours,
            arguments=tuple(options.settings) if program == OURS else (),
        )
        run_once(task)
        print_progress(f"{name}: evaluating {program}")
        points += evaluator.evaluate(out)
    return points


def _training_seconds(ours: Path) -> float:
    seconds: float = json.loads((ours / RESULT).read_text())["snapshots"][-1]["seconds"]
    return seconds


def run_once(task: Task) -> None:
    """Run a task in its own process, unless its result exists."""
    if (task.out / RESULT).exists():
        if json.loads((task.out / RESULT).read_text())["task"] != json.loads(task.to_json()):
            sys.exit(f"{task.out} holds a result for other arguments: choose another --out, or remove it")
        print_progress(f"{task.out} exists already")
        return
    shutil.rmtree(task.out, ignore_errors=True)
    print_progress(f"{task.out.parent.name}: {task.program}, {task.seconds:.0f} s of training")
    subprocess.run(
        [sys.executable, "-m", "benchmarks.quality.program", task.to_json()],
        check=True,
        cwd=ROOT,
        env={**os.environ, "TQDM_DISABLE": "1"},  # the peers show a progress bar for each batch of samples
    )


def main(arguments: Sequence[str]) -> None:
    """Parse the command line, run the comparison and write the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="settings for ours, to try other defaults")
    parser.add_argument("--sets", default=",".join(DATASETS), help="datasets; default: %(default)s")
    parser.add_argument("--programs", default=",".join(PROGRAMS), help="ours first; default: %(default)s")
    parser.add_argument("--seconds", type=float, default=600, help="training time; default: %(default)s")
    parser.add_argument("--images", type=int, default=1000, help="images from the last snapshot; default: %(default)s")
    parser.add_argument("--steps", type=int, default=50, help="network evaluations per image; default: %(default)s")
    parser.add_argument("--out", type=Path, default=OUT, help="default: outputs/bench/quality")
    parser.add_argument("--page", type=Path, help="page whose tables are replaced; its images are saved next to it")
    options = parser.parse_args(arguments)
    if LUCIDRAINS in options.programs and (missing := missing_peers()):
        sys.exit(f"not installed: {missing} (pip install -e '.[peers,benchmarks]')")
    base = options.out.absolute()
    results = {name: compare(name, base, options) for name in options.sets.split(",")}
    write_report(results, machine(), base, options.page)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main(sys.argv[1:])
