"""Batches from a folder of JPEGs, against torchvision's ImageFolder with two loader processes.

    python -m benchmarks.data [--json] [--images 2000] [--size 64] [--epochs 5]

Both deliver batches of float32 in [-1, 1] of the same pictures at the same size, shuffled, with the same augmentations
of the same strength: flips alone (``conf/data/image_folder.yaml``), and flips, turns and colours. The peer decodes,
resizes and augments each picture in its processes, as its users do; they stay from one epoch to the next. Ours are the
datamodule's own batches, augmented as it does it for training.

The first epoch of each begins with nothing but the files, so ours contains checking, hashing and decoding all of them
and writing the cache. Later epochs are taken in turns, and the median of each is compared. ``bare`` is what the
machine allows: copying the same bytes out of memory in the same order, and turning them into floats.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from diffusion_lab import torchvision_beside_cpu_torch

torchvision_beside_cpu_torch.install()

from torch.utils.data import DataLoader  # noqa: E402
from torchvision import datasets, transforms  # noqa: E402

from diffusion_lab.data.augmentation import Augmentation  # noqa: E402
from diffusion_lab.data.datamodule import ImageDataModule  # noqa: E402
from diffusion_lab.data.disk_cache import cached_on_disk  # noqa: E402
from diffusion_lab.data.image_folder import ImageFolderSource  # noqa: E402
from diffusion_lab.shapes import Batch, from_pixels  # noqa: E402

BATCH_SIZE, WORKERS = 32, 2
DEGREES, STRENGTH = 15.0, 0.2
GOAL_LATER, GOAL_FIRST = 20.0, 1.0

Epoch = Callable[[], int]
"""Goes through an epoch and gives the number of its images."""


def make_images(folder: Path, count: int) -> None:
    """JPEGs of 96 to 256 pixels a side, smooth colours under noise, as large as photographs of that size."""
    rng = np.random.default_rng(0)
    (folder / "photos").mkdir(parents=True)
    for number in range(count):
        width, height = rng.integers(96, 257, 2)
        corners = Image.fromarray(rng.integers(0, 256, (3, 3, 3), dtype=np.uint8))
        smooth = np.asarray(corners.resize((width, height), Image.Resampling.BICUBIC)).astype(np.float32)
        noisy = (smooth + rng.normal(0, 8, smooth.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / "photos" / f"{number:06}.jpg", quality=90)


def peer(folder: Path, size: int, all_changes: bool) -> Epoch:
    """torchvision's ImageFolder, its transforms and torch's DataLoader."""
    changes: list[Any] = [transforms.Resize(size), transforms.CenterCrop(size), transforms.RandomHorizontalFlip()]
    if all_changes:
        colours = transforms.ColorJitter(brightness=STRENGTH, contrast=STRENGTH, saturation=STRENGTH)
        changes += [transforms.RandomRotation(DEGREES, transforms.InterpolationMode.BILINEAR), colours]
    changes += [transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
    loader = DataLoader(
        datasets.ImageFolder(str(folder), transforms.Compose(changes)),
        BATCH_SIZE,
        shuffle=True,
        num_workers=WORKERS,
        persistent_workers=True,
    )
    return lambda: sum(len(images) for images, _ in loader)


def ours(folder: Path, size: int, all_changes: bool, caches: Path, workers: int) -> Epoch:
    """The datamodule over the cache, with what it does to training batches on the device."""
    source = cached_on_disk(ImageFolderSource(folder, size, 3), caches)
    augmentation = Augmentation(
        horizontal_flip=True,
        rotation_degrees=DEGREES if all_changes else 0.0,
        jitter_strength=STRENGTH if all_changes else 0.0,
    )
    data = ImageDataModule(source, None, BATCH_SIZE, workers, augmentation=augmentation)
    loader: Iterable[Batch] = data.train_dataloader()
    return lambda: sum(len(data.prepared(batch, vary=True).images) for batch in loader)


def bare(count: int, size: int) -> Epoch:
    """Copies and floats alone."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 3, size, size), dtype=np.uint8)
    order = np.random.default_rng(1).permutation(count)

    def epoch() -> int:
        parts = np.split(order, range(BATCH_SIZE, count, BATCH_SIZE))
        return sum(len(from_pixels(torch.from_numpy(pixels[part]))) for part in parts)

    return epoch


def timed(task: Callable[[], int]) -> float:
    """Images a second."""
    began = time.perf_counter()
    done = task()
    return done / (time.perf_counter() - began)


def measure(folder: Path, count: int, size: int, epochs: int, all_changes: bool) -> dict[str, float]:
    """Images a second of each: the first epoch, made ready included, and the median of the later ones."""
    found: dict[str, float] = {}
    later: dict[str, Epoch] = {}
    for turn in ("once", "again"):  # each begins twice with nothing, in turns; the better one counts
        caches = folder.parent / f"caches {all_changes} {turn}"
        begun: dict[str, Callable[[], Epoch]] = {
            "peer": partial(peer, folder, size, all_changes),
            "ours": partial(ours, folder, size, all_changes, caches, 0),
        }
        for name, begin in begun.items():
            rate = timed(partial(_first, begin, name, later))
            found[f"{name}, first epoch"] = max(rate, found.get(f"{name}, first epoch", 0))
    later["ours, 2 workers"] = ours(folder, size, all_changes, caches, WORKERS)
    later["ours, 2 workers"]()
    later["bare"] = bare(count, size)
    rates: dict[str, list[float]] = {name: [] for name in later}
    for _ in range(epochs):
        for name, epoch in later.items():
            rates[name].append(timed(epoch))
    return found | {f"{name}, later": statistics.median(each) for name, each in rates.items()}


def _first(begin: Callable[[], Epoch], name: str, later: dict[str, Epoch]) -> int:
    later[name] = begin()
    return later[name]()


def report(rates: dict[str, float]) -> dict[str, float | bool]:
    """The ratios, and whether each reaches its goal."""
    first = rates["ours, first epoch"] / rates["peer, first epoch"]
    later = rates["ours, later"] / rates["peer, later"]
    return {
        "first epoch": first,
        "later": later,
        "share of bare": rates["ours, later"] / rates["bare, later"],
        "reached": first >= GOAL_FIRST and later >= GOAL_LATER,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data")
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--size", type=int, default=64, help="pixels a side that come out")
    parser.add_argument("--epochs", type=int, default=5, help="later epochs of each, in turns")
    given = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "images"
        make_images(folder, given.images)
        for title, all_changes in (("flips", False), ("flips, turns and colours", True)):
            rates = measure(folder, given.images, given.size, given.epochs, all_changes)
            found[title] = {"images_per_second": rates, "ratios": report(rates)}
    if given.json:
        print(json.dumps({"images": given.images, "size": given.size, "augmentations": found}, indent=2))
        return
    for title, result in found.items():
        print(title)
        for way, rate in result["images_per_second"].items():
            print(f"  {way:<24} {rate:10,.0f} images/s")
        ratios = result["ratios"]
        print(
            f"  ours / peer: first epoch {ratios['first epoch']:.2f} × (goal {GOAL_FIRST:g}), later epochs "
            f"{ratios['later']:.1f} × (goal {GOAL_LATER:g}); {ratios['share of bare']:.0%} of bare copying"
        )


if __name__ == "__main__":
    main()
