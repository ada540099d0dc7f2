"""What grows with the number of images: start-up, memory and the time of a batch, of a thousand against a million.

    python -m benchmarks.growth_images [--json] [--images 1000 1000000]

Each number of images is a cache of 8×8 pixels made up beforehand, opened in a process of its own as training does:
labels, a balanced split for validation, the fingerprint, the datamodule; then batches from all over the first epoch.
``memory`` is what the process holds for itself; pages of the cache belong to the system, which takes them back as it
needs them. ``listing`` is the one thing that must look at every file: whether a cache is still that of the folder. It
is taken on a folder of that many files (--files says of how many at most, as making a million takes minutes).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SIDE, CLASSES, BATCH_SIZE, BATCHES, REPEATS = 8, 10, 32, 300, 3
MOST_FILES = 20_000


def make_pixels(file: Path, count: int) -> None:
    """The pixels of a cache, written in parts."""
    rng = np.random.default_rng(0)
    with file.open("wb") as stream:
        for start in range(0, count, 100_000):
            stream.write(rng.bytes(min(100_000, count - start) * 3 * SIDE**2))


def own_memory() -> float:
    """Megabytes that this process holds and does not share with a file."""
    told = Path("/proc/self/status").read_text().partition("RssAnon:")[2].split()
    return int(told[0]) / 1024 if told else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def one_start(file: Path, count: int) -> dict[str, float]:
    """Seconds and megabytes of opening a cache and drawing batches from it, in this process."""
    from diffusion_lab import torchvision_beside_cpu_torch

    torchvision_beside_cpu_torch.install()
    from diffusion_lab.data.datamodule import ImageDataModule
    from diffusion_lab.data.decoded import DecodedSource
    from diffusion_lab.data.source import Subset
    from diffusion_lab.data.split import balanced_split

    imported, began = own_memory(), time.perf_counter()
    labels = np.arange(count) % CLASSES
    source = DecodedSource(file, None, labels, [str(number) for number in range(CLASSES)], 3, SIDE, "made up")
    train, val = (Subset(source, part) for part in balanced_split(labels, 0.1, seed=0))
    train.fingerprint()
    data = ImageDataModule(train, val, BATCH_SIZE, labelled=True)
    batches, held_out = iter(data.train_dataloader()), iter(data.val_dataloader())
    next(batches), next(held_out)
    started, taken = time.perf_counter() - began, []
    for _ in range(BATCHES):
        before = time.perf_counter()
        if next(batches, None) is None:
            batches = iter(data.train_dataloader())
            continue
        taken.append(time.perf_counter() - before)
    return {"start": started, "memory": own_memory() - imported, "batch": statistics.median(taken)}


def seconds_to_list(folder: Path, count: int) -> float:
    """A look at every file of a folder, empty ones here: only names, sizes and times are asked for."""
    from diffusion_lab.data.listing import list_images

    for number in range(count):
        file = folder / f"{number % CLASSES}" / f"{number:08}.png"
        file.parent.mkdir(exist_ok=True, parents=True)
        file.touch()
    began = time.perf_counter()
    list_images(folder).digest()
    return time.perf_counter() - began


def measure(counts: list[int], folder: Path) -> dict[int, dict[str, float]]:
    """Medians of each number of images, in processes of their own, in turns."""
    files = {count: folder / f"{count}.bin" for count in counts}
    for count, file in files.items():
        make_pixels(file, count)
    runs: dict[int, list[dict[str, float]]] = {count: [] for count in counts}
    for _ in range(REPEATS):
        for count, file in files.items():
            command = [sys.executable, "-m", "benchmarks.growth_images", "--one", str(file), "--images", str(count)]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ))
            runs[count].append(json.loads(done.stdout))
    return {
        count: {key: statistics.median(run[key] for run in each) for key in each[0]} for count, each in runs.items()
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth_images")
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 1_000_000])
    parser.add_argument("--files", type=int, default=MOST_FILES, help="made to measure the listing of a folder")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one_start(given.one, given.images[0])))
        return
    with tempfile.TemporaryDirectory() as name:
        found = measure(given.images, Path(name))
        listing = seconds_to_list(Path(name) / "files", given.files) / given.files
    if given.json:
        print(json.dumps({"images": found, "listing_seconds_a_file": listing}, indent=2))
        return
    for count, each in found.items():
        print(
            f"{count:>9,} images: start {each['start']:6.3f} s, own memory {each['memory']:6.1f} MB, "
            f"a batch {each['batch'] * 1e6:6.0f} µs"
        )
    print(f"looking at the files of a folder: {listing * 1e6:.1f} µs a file")


if __name__ == "__main__":
    main()
