"""Scaling with the number of images: start, memory and time of a batch, for a million against a thousand images.

    python -m benchmarks.growth_images [--json] [--images 1000000] [--files 20000]

Each number of images is a generated cache of 8×8 pixels, opened in a separate process like in training: labels, a
balanced split for validation, the fingerprint, the data module; then batches of the first epoch. Memory is the private
memory of the process; pages of the cache belong to the system, which can reclaim them. Only listing has to look at
every file, to check whether a cache is still that of the folder. It is measured on a folder of fewer files, as creating
a million takes minutes.
"""

from __future__ import annotations

import resource
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.equal_work import peer
from benchmarks.harness import Row, Timings, command, print_progress, time_alternately

SIDE, CLASSES, BATCH_SIZE, BATCHES, REPEATS = 8, 10, 32, 300, 3
FEW, MANY, FILES = 1000, 1_000_000, 20_000
MAX_GROWTH = 1.25
"""Largest ratio for figures that must not grow; a busy machine may add a quarter."""


DESCRIPTIONS = {
    "first_batch": "from the start of a process to its first batch",
    "memory": "private memory of the process",
    "batch": f"time of a batch of {BATCH_SIZE}, 8×8",
}
"""Descriptions of the rows by the name of the figure below."""


class Start(NamedTuple):
    """Time and memory of a process that starts with a cache, in seconds and megabytes."""

    first_batch: float
    """Seconds from its start, including imports."""
    opening: float
    """Seconds of these for the images."""
    memory: float
    """Private memory."""
    batch: float
    """Seconds of a batch."""


def make_pixels(file: Path, count: int) -> None:
    """Write the pixels of a cache, in parts."""
    rng = np.random.default_rng(0)
    with file.open("wb") as stream:
        for start in range(0, count, 100_000):
            stream.write(rng.bytes(min(100_000, count - start) * 3 * SIDE**2))


def own_memory() -> float:
    """Return the megabytes of this process that are not shared with a file."""
    fields = Path("/proc/self/status").read_text().partition("RssAnon:")[2].split()
    return int(fields[0]) / 1024 if fields else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def one_start(file: Path, count: int, began: float) -> Start:
    """Open a cache and load batches from it, in this process, which started at ``began``."""
    from diffusion_lab.data.datamodule import ImageDataModule
    from diffusion_lab.data.decoded import DecodedSource
    from diffusion_lab.data.source import Subset
    from diffusion_lab.data.split import balanced_split

    imported = time.monotonic()
    labels = np.arange(count) % CLASSES
    source = DecodedSource(file, None, labels, [str(number) for number in range(CLASSES)], 3, SIDE, "made up")
    train, val = (Subset(source, part) for part in balanced_split(labels, 0.1, seed=0))
    train.fingerprint()
    data = ImageDataModule(train, val, BATCH_SIZE, labelled=True)
    batches, held_out = iter(data.train_dataloader()), iter(data.val_dataloader())
    next(batches), next(held_out)
    started, taken = time.monotonic(), []
    for _ in range(BATCHES):
        before = time.perf_counter()
        if next(batches, None) is None:
            batches = iter(data.train_dataloader())
            continue
        taken.append(time.perf_counter() - before)
    return Start(started - began, started - imported, own_memory(), statistics.median(taken))


def starts(counts: Sequence[int], folder: Path) -> dict[int, list[Start]]:
    """Measure each number of images in separate processes, alternately."""
    files = {count: folder / f"{count}.bin" for count in counts}
    for count, file in files.items():
        make_pixels(file, count)
    results: dict[int, list[Start]] = {count: [] for count in counts}
    for _ in range(REPEATS):
        for count, file in files.items():
            with get_context("spawn").Pool(1) as process:
                results[count].append(process.apply(one_start, (file, count, time.monotonic())))
    return results


def rows(results: Mapping[int, Sequence[Start]]) -> list[Row]:
    """Return rows of the figures that must not grow from the smaller to the larger number of images."""
    few, many = sorted(results)

    def figures(name: str) -> Timings:
        return Timings({str(count): [getattr(run, name) for run in runs] for count, runs in results.items()})

    def row(name: str, unit: str, scale: float, note: str = "") -> Row:
        taken = figures(name)
        ours, least = (scale * taken.median(str(count)) for count in (many, few))
        growth, note = taken.ratio(str(many), str(few)), f"peer: {few:,} images{note}"
        what = f"{DESCRIPTIONS[name]}, {many:,} images"
        return Row("8", what, ours, least, unit, growth, MAX_GROWTH, False, note=note)

    part, memory = ([figures(name).median(str(count)) for count in (many, few)] for name in ("opening", "memory"))
    each = (memory[0] - memory[1]) * 2**20 / (many - few)
    return [
        row("first_batch", "s", 1, f"; for the images {part[0]:.2g} s and {part[1]:.2g} s of it"),
        row("memory", "MB", 1, f"; {each:.0f} bytes per additional image: its label and its position in the order"),
        row("batch", "µs", 1e6),
    ]


def listing_row(folder: Path, count: int) -> Row:
    """Measure listing a folder, of empty files here, against torchvision's ImageFolder."""
    from diffusion_lab.data.listing import list_images

    for number in range(count):
        file = folder / f"{number % CLASSES}" / f"{number:08}.png"
        file.parent.mkdir(exist_ok=True, parents=True)
        file.touch()
    theirs = peer("torchvision.datasets").ImageFolder
    taken = time_alternately(
        {"ours": lambda: list_images(folder).images.digest(), "theirs": partial(theirs, folder)}, REPEATS
    )
    ours, other = (taken.median(name) / count for name in ("ours", "theirs"))
    note = f"peer: ImageFolder, which reads only names; {MANY:,} files: {ours * MANY:.0f} s at the start"
    what = "looking for changes in a folder of images"
    return Row("8", what, ours * 1e6, other * 1e6, "µs/file", taken.ratio("ours", "theirs"), note=note)


def measure(images: str = str(MANY), files: str = str(FILES)) -> list[Row]:
    """Return the rows of the caches, and one of the folder."""
    print_progress(f"growth: {FEW:,} and {int(images):,} images")
    with tempfile.TemporaryDirectory() as name:
        results = starts([FEW, int(images)], Path(name))
        return [*rows(results), listing_row(Path(name) / "files", int(files))]


if __name__ == "__main__":
    command("growth_images", measure, images=str(MANY), files=str(FILES))
