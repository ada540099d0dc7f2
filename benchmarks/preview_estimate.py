"""Estimates of `preview=true` next to what the run then took.

    python -m benchmarks.preview_estimate [--digits 10] [--emoji 4]

For each recipe, `train.py preview=true` runs first, then `train.py` with the same settings, each as a program of its
own. The numbers of epochs are arguments, since complete runs take minutes; `--digits 40 --emoji 40` are those of the
recipes.
Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.harness import print_progress

ROOT = Path(__file__).resolve().parents[1]
RECIPES = {"digits": (), "emoji": ("experiment=emoji",)}
GOAL = 0.25
"""Largest relative error of time, memory and disk space."""


def estimate_and_run(overrides: list[str], folder: Path) -> tuple[dict[str, Any], dict[str, Any], int]:
    """Return the figures of the preview, the summary of the run, and the bytes of its checkpoints."""
    run = folder / "run"
    train(*overrides, "preview=true", f"output.base_dir={run}")
    train(*overrides, f"output.base_dir={run}")
    files = [file for file in (run / "checkpoints").glob("*.ckpt") if not file.is_symlink()]
    figures, summary = (json.loads((run / name).read_text()) for name in ("preview.json", "summary.json"))
    return figures, summary, sum(file.stat().st_size for file in files)


def train(*arguments: str) -> None:
    """Run ``train.py``."""
    print_progress(" ".join(["train.py", *arguments]))
    subprocess.run([sys.executable, ROOT / "train.py", *arguments], check=True, capture_output=True)


def main() -> None:
    """Print a table of estimates and results; exit with 1 if one is further off than the goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--digits", type=int, default=10, metavar="EPOCHS", help="epochs of the digits; 0 to skip them")
    parser.add_argument("--emoji", type=int, default=4, metavar="EPOCHS", help="epochs of the emoji; 0 to skip them")
    epochs = vars(parser.parse_args())
    print(f"{'':14}{'time':>24}  {'peak memory, MB':>24}  {'checkpoints, MB':>24}")
    print(f"{'':14}" + "  ".join(f"{'estimate':>10}{'run':>7}{'ratio':>7}" for _ in range(3)))
    missed = False
    for name, overrides in RECIPES.items():
        if not epochs[name]:
            continue
        with tempfile.TemporaryDirectory() as folder:
            figures, summary, size = estimate_and_run([*overrides, f"training.epochs={epochs[name]}"], Path(folder))
        cells = [
            (figures["seconds"], summary["train_seconds"]),
            (figures["peak_memory_bytes"] / 2**20, summary["peak_memory_mb"]),
            (figures["disk_bytes"] / 1e6, size / 1e6),
        ]
        print(f"{name:14}" + "  ".join(f"{a:10.1f}{b:7.1f}{a / b:7.2f}" for a, b in cells), flush=True)
        print(f"{'':14}{figures['seconds_by_part']}", flush=True)
        missed |= any(abs(estimate / actual - 1) > GOAL for estimate, actual in cells)
    raise SystemExit(int(missed))


if __name__ == "__main__":
    main()
