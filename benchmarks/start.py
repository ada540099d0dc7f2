"""Start-up time of the commands, against importing the libraries that they need.

    python -m benchmarks.start [--json]

Every start is a separate process, with files that are in the page cache.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.equal_work import EQUAL_WORK, write_checkpoint
from benchmarks.harness import Row, Timings, command, print_progress, time_alternately

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 5

ALLOWED_SECONDS, ALLOWED_SHARE = 1.2, 0.25
"""Bounds for `--help`: seconds, or this share of Lightning's import."""

# With torchvision made to load with a CPU build of torch, since Lightning imports it.
LIGHTNING = "import diffusion_lab.runtime.torchvision_import as repair; repair.install(); import lightning.pytorch"
WEIGHTS = "import sys, torch; torch.load(sys.argv[1], weights_only=True)"

# The sampler is loaded with the settings, before torch, so nothing is imported here that sample.py would not.
FIRST_STEP = """
import os, runpy, sys
from diffusion_lab.samplers.base import Sampler
def reached(*arguments):
    os._exit(0)
Sampler._estimate = reached
sys.argv = ["sample.py", *sys.argv[1:]]
runpy.run_path("sample.py", run_name="__main__")
sys.exit("sample.py ended without a denoising step")
"""


def process(*arguments: str) -> Callable[[], object]:
    """Return a function that runs a Python process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return lambda: subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True
    )


def measure() -> list[Row]:
    """Return a row for each command."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_checkpoint(folder / "model.ckpt", EQUAL_WORK)
        return rows(time_alternately(ways(folder), ROUNDS))


def ways(folder: Path) -> dict[str, Callable[[], object]]:
    """Return the commands to time, by name."""
    checkpoint = str(folder / "model.ckpt")
    print_progress("starting train.py, sample.py and their peers, each a few times")
    return {
        "train.py --help": process("train.py", "--help"),
        "train.py --cfg job": process("train.py", "--cfg", "job"),
        "import lightning.pytorch": process("-c", LIGHTNING),
        "sample.py": process("-c", FIRST_STEP, f"ckpt={checkpoint}", f"output.base_dir={folder / 'images'}"),
        "import torch, weights": process("-c", WEIGHTS, checkpoint),
    }


def rows(taken: Timings) -> list[Row]:
    """Return the rows; the first two commands are bounded by seconds or by Lightning, whichever is more."""
    lightning = taken.median("import lightning.pytorch")
    allowed = max(ALLOWED_SECONDS / lightning, ALLOWED_SHARE)
    table = [
        Row(
            "4",
            way,
            taken.median(way),
            lightning,
            "s",
            taken.ratio(way, "import lightning.pytorch"),
            round(allowed, 2),
            at_least=False,
            note="import lightning.pytorch",
        )
        for way in ("train.py --help", "train.py --cfg job")
    ]
    bare = "import torch, weights"
    first = Row(
        "4",
        "sample.py to its first denoising step",
        taken.median("sample.py"),
        taken.median(bare),
        "s",
        taken.ratio("sample.py", bare),
        2.0,
        at_least=False,
        note="import torch and reading the weights",
    )
    return [*table, first]


def main() -> None:
    """Measure and print."""
    command("start", measure)


if __name__ == "__main__":
    main()
