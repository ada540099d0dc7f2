"""``digits``: a small classifier trained on the dataset itself, for images too small for networks of photographs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion_lab.console.terminal import printable
from diffusion_lab.data.cache_location import Report
from diffusion_lab.data.source import ImageSource, IndexArray, Subset
from diffusion_lab.data.split import balanced_split
from diffusion_lab.features.extractor import (
    Extracted,
    NetworkExtractor,
    deterministic_linear,
    resize_images,
    with_channels,
)
from diffusion_lab.features.tensor_cache import Tensors, cached_tensors
from diffusion_lab.runs.identity import data_fingerprint
from diffusion_lab.runtime.determinism import seed_host_generators
from diffusion_lab.runtime.devices import use_threads
from diffusion_lab.shapes import Images, Labels, Pixels

MAX_SIZE = 32
"""Side in pixels above which images are resized."""

MAX_IMAGES = 50_000
"""Maximum number of training images, to limit memory; from a larger set, evenly spaced ones are used."""

HELD_OUT = 0.2
"""Fraction of each class that is held out to measure the accuracy of the classifier."""

STEPS, STEPS_LARGE = 600, 1200
"""Training steps for images below 16 pixels and for larger ones."""

BATCH, SEED, LEARNING_RATE = 64, 0, 3e-3
MAX_SHIFT, MAX_DISTORTION = 0.06, 0.15
"""Augmentation: largest shift as a fraction of the side, and largest change of an entry of the linear map."""

FORMAT = 2
"""Version of the classifier and its training; cached classifiers of other versions are not used."""


class DigitClassifier(nn.Module):
    """Classifier of three convolutions and two linear layers, the first of which returns the features.

    Args:
        channels: Image channels.
        num_classes: Number of classes.
        image_size: Side of the images; from 16 pixels, there is one more downsampling, and the network is narrower.
    """

    def __init__(self, channels: int, num_classes: int, image_size: int) -> None:
        super().__init__()
        large = is_large(image_size)
        width = 16 if large else 32
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2) if large else nn.Identity(),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2) if image_size > 1 else nn.Identity(),
            nn.Conv2d(2 * width, 4 * width, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4),
        )  # fmt: skip
        self.hidden = nn.Linear(4 * width * 16, 128)
        self.classes = nn.Linear(128, num_classes)

    def forward(self, images: Images) -> Tensor:
        """Map images ``(B, C, S, S)`` in [-1, 1] to logits ``(B, K)``."""
        hidden = F.relu(self.hidden(self.convolutions(images).flatten(1)))
        logits: Tensor = self.classes(F.dropout(hidden, 0.3, self.training))
        return logits


class DigitsExtractor(NetworkExtractor):
    """The 128 activations before the last layer of a classifier trained on the dataset, and its logits.

    Training takes seconds, always gives the same weights, and the classifier is cached.

    Args:
        source: Images of at least two classes.
        device: Device for computing features; training uses the CPU.
        cache_dir: Cache folder; None for that of the user.
        cache_key: Setting or argument that ``cache_dir`` comes from, for error messages.
        report: Called with messages about the classifier; None prints them on standard error.

    Attributes:
        held_out_accuracy: Accuracy of the classifier on held-out images.
        num_held_out: Number of held-out images.
        num_trained: Number of training images.

    Raises:
        ValueError: The images have fewer than two classes, or too few images to hold any out.
    """

    name = "digits"
    num_features = 128
    has_logits = True
    preparation = "bicubic, antialiased, rounded; over 127.5, less 1"

    def __init__(
        self,
        source: ImageSource,
        device: str | torch.device = "cpu",
        cache_dir: Path | None = None,
        cache_key: str = "cache_dir",
        report: Report | None = None,
    ) -> None:
        num_classes = len(source.class_names)
        if num_classes < 2:
            raise ValueError(
                f"features = digits trains a classifier and needs images of two classes or more, got {num_classes}: "
                "put the images of each class into a separate folder, or use features=pixels"
            )
        if source.channels not in (1, 3):
            raise ValueError(f"features = digits takes images of 1 or 3 channels, got {source.channels}")
        size, channels, images = min(source.image_size, MAX_SIZE), source.channels, data_fingerprint(source)
        cached = cached_tensors(
            f"classifier_{FORMAT}-{images[:16]}-torch_{torch.__version__}",
            {"format": FORMAT, "data_fingerprint": images, "torch": torch.__version__},
            lambda: _train_classifier(source, size, channels),
            report or _print_to_stderr,
            cache_dir,
            cache_key,
            doing="training the same classifier",
        )
        self.held_out_accuracy: float = cached.about["held_out_accuracy"]
        self.num_held_out: int = cached.about["num_held_out"]
        self.num_trained: int = cached.about["num_trained"]
        training = f"{self.num_trained:,} images; it classifies {self.held_out_accuracy:.1%} of {self.num_held_out:,}"
        self.notes = (f"features=digits: the classifier was trained on {training} others correctly.",)
        if not cached.was_cached:
            (report or _print_to_stderr)(f"features=digits: trained a classifier on {training} held-out ones correctly")
        self.size = size
        network = _create_classifier(channels, num_classes, size)
        network.load_state_dict(cached.tensors)
        super().__init__(network, device, channels)

    def prepare(self, pixels: Pixels) -> Images:
        assert self.size is not None
        return _normalize(pixels, self.size)

    def forward(self, images: Images) -> Extracted:
        assert isinstance(self.network, DigitClassifier)
        values = F.relu(deterministic_linear(self.network.hidden, self.network.convolutions(images).flatten(1)))
        return Extracted(values, deterministic_linear(self.network.classes, values))


def _print_to_stderr(line: str) -> None:
    print(printable(line), file=sys.stderr)


def _create_classifier(channels: int, num_classes: int, size: int) -> DigitClassifier:
    with seed_host_generators(SEED):
        return DigitClassifier(channels, num_classes, size)


def _normalize(pixels: Pixels, size: int) -> Images:
    images = resize_images(pixels, size).float() / 127.5 - 1
    return images.contiguous(memory_format=torch.channels_last)


def _train_classifier(source: ImageSource, size: int, channels: int) -> tuple[Tensors, Mapping[str, Any]]:
    """Train a classifier; return its weights, and its accuracy as metadata."""
    if len(source) > MAX_IMAGES:
        source = Subset(source, np.linspace(0, len(source) - 1, MAX_IMAGES, dtype=np.int64))
    if np.bincount(source.labels).max() < 2:
        raise ValueError(
            "features = digits needs two images or more of some class, one of which is held out: use more images, or "
            "features=pixels"
        )
    pixels = _load_pixels(source, size, channels)
    labels = torch.from_numpy(source.labels.copy())
    trained, held_out = (torch.from_numpy(indices) for indices in balanced_split(source.labels, HELD_OUT, SEED))
    network = _create_classifier(channels, len(source.class_names), size).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    # With a single thread, the order of summation and so the weights do not depend on the number of threads.
    with use_threads(1), torch.enable_grad(), torch.autocast("cpu", enabled=False):
        _train(network, pixels[trained], labels[trained])
    network.eval()
    with torch.inference_mode():
        correct = sum(
            int((network(_normalize(pixels[batch], size)).argmax(1) == labels[batch]).sum())
            for batch in held_out.split(256)
        )
    weights = {name: weight.detach().contiguous() for name, weight in network.state_dict().items()}
    accuracy = {"held_out_accuracy": correct / len(held_out), "num_held_out": len(held_out)}
    return weights, {**accuracy, "num_trained": len(trained)}


def _load_pixels(source: ImageSource, size: int, channels: int) -> Pixels:
    parts = np.array_split(np.arange(len(source), dtype=np.int64), -(-len(source) // 256))
    return torch.cat([_load_part(source, part, size, channels) for part in parts])


def _load_part(source: ImageSource, indices: IndexArray, size: int, channels: int) -> Pixels:
    return resize_images(with_channels(torch.from_numpy(source.load_batch(indices, None)), channels), size).contiguous()


def is_large(image_size: int) -> bool:
    """Return whether images are large enough for the additional downsampling and longer training."""
    return image_size >= 16


def _train(network: DigitClassifier, pixels: Pixels, labels: Labels) -> None:
    """Train with AdamW and a one-cycle learning rate on slightly augmented images."""
    size = pixels.shape[-1]
    steps = STEPS_LARGE if is_large(size) else STEPS
    generator = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    network.train()
    with seed_host_generators(SEED):  # for dropout
        for _ in range(steps):
            indices = torch.randint(len(pixels), (BATCH,), generator=generator)
            images = _augment(_normalize(pixels[indices], size), generator)
            loss = F.cross_entropy(network(images), labels[indices], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def _augment(images: Images, generator: torch.Generator) -> Images:
    """Apply a random affine map to each image; the border is extended by its edge pixels."""
    maps = torch.eye(2, 3).repeat(len(images), 1, 1)
    maps[:, :, :2] += MAX_DISTORTION * (2 * torch.rand(len(images), 2, 2, generator=generator) - 1)
    maps[:, :, 2] = 2 * MAX_SHIFT * (2 * torch.rand(len(images), 2, generator=generator) - 1)
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
