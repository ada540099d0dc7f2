"""Train, draw, judge and report: ``python -m benchmarks.quality``.

Everything is kept in outputs/bench/quality: results, curves.png, and one grid for each set and program. What is there
is not made again, so that the same command continues after an interruption.
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
from benchmarks.quality.judge import Judge, Point
from benchmarks.quality.program import LUCIDRAINS, OURS, PROGRAMS, RESULT, Task
from benchmarks.quality.report import write_report
from benchmarks.quality.sets import SETS, write_folders

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "outputs" / "bench" / "quality"


def compare(name: str, base: Path, given: argparse.Namespace) -> list[Point]:
    """Run all programs on a set and judge what they drew."""
    train, held_out = write_folders(name, base / "sets")
    judge = Judge(train, held_out)
    ours = base / name / OURS
    points: list[Point] = []
    for program in given.programs.split(","):
        out = base / name / program
        seconds = given.seconds if program == OURS else _seconds_of(ours)
        task = Task(
            program,
            train,
            out,
            seconds,
            given.images,
            given.steps,
            *judge.shape,
            like=None if program == OURS else ours,
            arguments=tuple(given.settings) if program == OURS else (),
        )
        _do(task)
        print_progress(f"{name}: judging {program}")
        points += judge.points(out)
    return points


def _seconds_of(ours: Path) -> float:
    seconds: float = json.loads((ours / RESULT).read_text())["snapshots"][-1]["seconds"]
    return seconds


def _do(task: Task) -> None:
    if (task.out / RESULT).exists():
        if json.loads((task.out / RESULT).read_text())["task"] != json.loads(task.text()):
            sys.exit(f"{task.out} holds a result made with other arguments: choose another --out, or remove it")
        print_progress(f"{task.out} is there already")
        return
    shutil.rmtree(task.out, ignore_errors=True)
    print_progress(f"{task.out.parent.name}: {task.program}, {task.seconds:.0f} s of training")
    subprocess.run(
        [sys.executable, "-m", "benchmarks.quality.program", task.text()],
        check=True,
        cwd=ROOT,
        env={**os.environ, "TQDM_DISABLE": "1"},  # the peers draw a bar for each batch of samples
    )


def main(words: Sequence[str]) -> None:
    """Read the command line, compare, report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="settings of ours, to try another default")
    parser.add_argument("--sets", default=",".join(SETS), help="default: %(default)s")
    parser.add_argument("--programs", default=",".join(PROGRAMS), help="ours first; default: %(default)s")
    parser.add_argument("--seconds", type=float, default=600, help="of training; default: %(default)s")
    parser.add_argument("--images", type=int, default=1000, help="drawn at the end; default: %(default)s")
    parser.add_argument("--steps", type=int, default=50, help="evaluations for an image; default: %(default)s")
    parser.add_argument("--out", type=Path, default=OUT, help="default: outputs/bench/quality")
    parser.add_argument("--page", type=Path, help="page whose tables are replaced; its pictures go beside it")
    given = parser.parse_args(words)
    if LUCIDRAINS in given.programs and (missing := missing_peers()):
        sys.exit(f"not installed: {missing} (pip install -e '.[peers,benchmarks]')")
    base = given.out.absolute()
    found = {name: compare(name, base, given) for name in given.sets.split(",")}
    write_report(found, machine(), base, given.page)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main(sys.argv[1:])
