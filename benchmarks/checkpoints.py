"""Cost of saving a checkpoint safely, against `torch.save`, and its share of training.

    python -m benchmarks.checkpoints [--json] [--megabytes 500]

All write the same tensors into the same folder, alternately; the median of five. Safely means: written next to the
target, flushed to the disk, renamed, read back and compared, with a manifest. In training that happens in the
background; training waits only for the copy of the state. The share of training is the time that a complete
`python train.py` with default settings, on the digits, spends in the callback that saves.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from diffusion_lab.checkpoint import file_hash, verify
from diffusion_lab.training.checkpoint_io import AtomicCheckpointIO, BackgroundCheckpointIO

ROOT = Path(__file__).resolve().parents[1]
REPEATS = 5


def seconds(task: Callable[[], object]) -> float:
    """Return the duration of a task."""
    began = time.perf_counter()
    task()
    return time.perf_counter() - began


def flushed(content: dict[str, Any], path: Path) -> None:
    """`torch.save` flushed to the disk: the baseline for safe saving."""
    with path.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())


def measure(megabytes: int, folder: Path) -> dict[str, float]:
    """Return the median seconds of each way of saving tensors of this size, measured alternately, and of hashing."""
    count = 50
    tensors = {f"weight {index}": torch.randn(megabytes * 2**20 // 4 // count) for index in range(count)}
    content = {"state_dict": tensors}
    plain, safe = folder / "plain.ckpt", folder / "step_00000001.ckpt"
    background = BackgroundCheckpointIO()
    ways: dict[str, Callable[[], object]] = {
        "torch.save": lambda: torch.save(content, plain),
        "torch.save, flushed": lambda: flushed(content, plain),
        "safe": lambda: AtomicCheckpointIO().save_checkpoint(content, safe),
        "safe, waited for": lambda: background.save_checkpoint(content, safe),
        "sha256": lambda: file_hash(safe),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(REPEATS):
        for name, way in ways.items():
            taken[name].append(seconds(way))
            background.wait()
    assert verify(safe)
    return {name: statistics.median(times) for name, times in taken.items()}


SHARE = """
import json, runpy, sys, time
from diffusion_lab.training.callbacks import Checkpoints
from diffusion_lab.training.checkpoint_io import AtomicCheckpointIO
spent = {"waited": [], "written": []}
def timed(owner, name, kind):
    does = getattr(owner, name)
    def measured(*arguments):
        began = time.perf_counter()
        does(*arguments)
        spent[kind].append(time.perf_counter() - began)
    setattr(owner, name, measured)
for name in ("on_train_batch_end", "on_train_epoch_end", "on_train_end"):
    timed(Checkpoints, name, "waited")
timed(AtomicCheckpointIO, "save_checkpoint", "written")
sys.argv = ["train.py", *sys.argv[1:]]
runpy.run_path(sys.argv[0], run_name="__main__")
print(json.dumps({"saves": len(spent["written"])} | {kind: sum(times) for kind, times in spent.items()}))
"""


def share_of_training(folder: Path) -> dict[str, float]:
    """Return the seconds of `train.py` on the digits, and of its checkpoints."""
    arguments = ["compute.device=cpu", "logger=none", f"output.base_dir={folder}"]
    done = subprocess.run(
        [sys.executable, "-c", SHARE, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    spent = json.loads(done.stdout.splitlines()[-1])
    trained = json.loads((folder / "summary.json").read_text())["train_seconds"]
    return {"training": trained, **spent, "share": spent["waited"] / trained}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checkpoints")
    parser.add_argument("--json", action="store_true", help="print only JSON")
    parser.add_argument("--megabytes", type=int, default=500, help="size of the tensors in the checkpoint")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=ROOT / "outputs") as name:
        saving = measure(options.megabytes, Path(name))
        share = share_of_training(Path(name) / "run")
    if options.json:
        print(json.dumps({"megabytes": options.megabytes, "seconds": saving, "digits": share}, indent=2))
        return
    for way, taken in saving.items():
        print(f"{way:<20} {taken:6.2f} s  {taken / saving['torch.save, flushed']:5.2f} × flushed torch.save")
    print(
        f"digits: {share['saves']} checkpoints; training waited {share['waited']:.2f} s for them "
        f"of {share['training']:.0f} s, {share['share']:.2%}; writing took {share['written']:.2f} s in the background"
    )


if __name__ == "__main__":
    main()
