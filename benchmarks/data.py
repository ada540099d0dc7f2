"""Loading batches from a folder of JPEGs, against torchvision's ImageFolder with two worker processes.

    python -m benchmarks.data [--json] [--images 2000] [--size 64] [--epochs 5]

Both deliver batches of float32 in [-1, 1] of the same images at the same size, shuffled, with the same augmentations
of the same strength: only flips (``conf/data/image_folder.yaml``), and flips, rotation and color jitter. The peer
decodes, resizes and augments each image in its persistent workers, as its users do. Ours are batches of the data
module, augmented as for training.

The first epoch of each starts from the files alone, so ours includes checking, hashing and decoding all of them and
writing the cache. Epochs are measured alternately, and the ratio is the median of those within a round; later epochs
of ours, a tenth of a second each, are measured five at a time. The note has the limit of the machine: copying the same
bytes from memory in that order, and converting them to floats.

Colors are changed by the same factors; the peer clips to 8 bits after each of the three changes, ours at the end.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from benchmarks import equal_work
from benchmarks.harness import Row, Timings, command, print_progress, time_alternately
from diffusion_lab.cpu import cpu_optimizations
from diffusion_lab.data.augmentation import Augmentation
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.data.disk_cache import cached_on_disk
from diffusion_lab.data.image_folder import ImageFolderSource
from diffusion_lab.shapes import Batch, from_pixels

BATCH_SIZE, WORKERS = 32, 2
FIRST_EPOCH_ROUNDS, LATER_EPOCHS = 5, 5
DEGREES, STRENGTH = 15.0, 0.2
GOAL_LATER, GOAL_FIRST = 20.0, 1.0

Epoch = Callable[[], int]
"""Function that iterates over an epoch and returns the number of its images."""


def make_images(folder: Path, count: int) -> None:
    """Save JPEGs with sides of 96 to 256 pixels: smooth colors with noise, with file sizes as of photographs."""
    rng = np.random.default_rng(0)
    (folder / "photos").mkdir(parents=True)
    for number in range(count):
        width, height = rng.integers(96, 257, 2)
        corners = Image.fromarray(rng.integers(0, 256, (3, 3, 3), dtype=np.uint8))
        smooth = np.asarray(corners.resize((width, height), Image.Resampling.BICUBIC)).astype(np.float32)
        noisy = (smooth + rng.normal(0, 8, smooth.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / "photos" / f"{number:06}.jpg", quality=90)


def peer(folder: Path, size: int, all_changes: bool) -> Epoch:
    """Create the epoch of torchvision's ImageFolder and transforms with torch's DataLoader."""
    datasets, transforms = (equal_work.peer(f"torchvision.{part}") for part in ("datasets", "transforms"))
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
    """Create the epoch of the data module over the cache, including its augmentation on the device."""
    source = cached_on_disk(ImageFolderSource(folder, size, 3), caches)
    augmentation = Augmentation(
        horizontal_flip=True,
        rotation_degrees=DEGREES if all_changes else 0.0,
        jitter_strength=STRENGTH if all_changes else 0.0,
    )
    data = ImageDataModule(source, None, BATCH_SIZE, workers, augmentation=augmentation)
    loader: Iterable[Batch] = data.train_dataloader()

    return lambda: sum(len(data.prepare_batch(batch, training=True).images) for batch in loader)


def bare(count: int, size: int) -> Epoch:
    """Create an epoch of only copying and converting to floats."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 3, size, size), dtype=np.uint8)
    order = np.random.default_rng(1).permutation(count)

    def epoch() -> int:
        parts = np.split(order, range(BATCH_SIZE, count, BATCH_SIZE))
        return sum(len(from_pixels(torch.from_numpy(pixels[part]))) for part in parts)

    return epoch


def repeated(epoch: Epoch) -> Epoch:
    """Repeat an epoch LATER_EPOCHS times, one after the other as in training."""

    def epochs() -> int:
        with cpu_optimizations(torch.device("cpu")):
            return sum(epoch() for _ in range(LATER_EPOCHS))

    return epochs


def first_epochs(ways: dict[str, Callable[[], Epoch]]) -> tuple[dict[str, float], dict[str, Epoch]]:
    """Return the seconds of set-up and the first epoch, and the functions for later epochs."""
    taken, epochs_of = {}, {}
    for name, begin in ways.items():
        began = time.perf_counter()
        epochs_of[name] = begin()
        epochs_of[name]()
        taken[name] = time.perf_counter() - began
    return taken, epochs_of


def rows(folder: Path, count: int, size: int, epochs: int, all_changes: bool) -> list[Row]:
    """Return the rows of the first and of later epochs."""
    changes = "flips, rotation and color jitter" if all_changes else "flips"
    seconds: dict[str, list[float]] = {"peer": [], "ours": []}
    for round_index in range(FIRST_EPOCH_ROUNDS):  # each starts without a cache
        caches = folder.parent / f"caches {all_changes} {round_index}"
        taken, epochs_of = first_epochs(
            {
                "peer": partial(peer, folder, size, all_changes),
                "ours": partial(ours, folder, size, all_changes, caches, 0),
            }
        )
        for name, spent in taken.items():
            seconds[name].append(spent)
    firsts = Timings(seconds)
    first, other = (count / firsts.median(name) for name in ("ours", "peer"))
    later = time_alternately(
        {"peer": epochs_of["peer"], "ours": repeated(epochs_of["ours"]), "bare": repeated(bare(count, size))}, epochs
    )
    rate = {name: count * (1 if name == "peer" else LATER_EPOCHS) / later.median(name) for name in later.seconds}
    note = "torchvision ImageFolder, 2 processes"
    allowed = f"{note}; {later.ratio('bare', 'ours'):.0%} of copying them from memory as floats"
    what = f"{count:,} JPEGs to {size}×{size}, {changes}"
    ratio = later.ratio("peer", "ours") * LATER_EPOCHS
    return [
        Row("3", f"{what}, later epochs", rate["ours"], rate["peer"], "images/s", ratio, GOAL_LATER, note=allowed),
        Row("3", f"{what}, first epoch", first, other, "images/s", firsts.ratio("peer", "ours"), GOAL_FIRST, note=note),
    ]


def measure(images: str = "2000", size: str = "64", epochs: str = "5") -> list[Row]:
    """Return two rows for each choice of augmentations."""
    table = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "images"
        print_progress(f"data: making {images} JPEGs")
        make_images(folder, int(images))
        for all_changes in (False, True):
            print_progress(f"data: {'flips, rotation and color jitter' if all_changes else 'flips'}")
            table += rows(folder, int(images), int(size), int(epochs), all_changes)
    return table


if __name__ == "__main__":
    command("data", measure, images="2000", size="64", epochs="5")
