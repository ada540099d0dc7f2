"""``digits``: a small classifier trained on the data set itself, for images too small for networks of photographs."""

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

LARGEST = 32
"""Side in pixels beyond which images are resized."""

MOST_IMAGES = 50_000
"""Images that the classifier is trained on at most, so that they fit into memory; of more, as many spread evenly."""

HELD_OUT = 0.2
"""Share of each class that is not trained on, to know how often the classifier is right."""

STEPS, STEPS_OF_LARGE = 600, 1200
"""Of training, for images of less than 16 pixels and for others."""

BATCH, SEED, LEARNING_RATE = 64, 0, 3e-3
MOVED, BENT = 0.06, 0.15
"""How far training images are moved, as a share of their side, and turned, stretched or slanted."""

FORMAT = 2
"""Of the classifier and its training: another number, and no earlier one is taken from the cache."""


class DigitClassifier(nn.Module):
    """Three convolutions and two layers; the first of these gives the features.

    Args:
        channels: Of the images.
        num_classes: Number of classes.
        image_size: Side of the images; of 16 pixels and more they are halved once more, and the network is narrower.
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
        """Images ``(B, C, S, S)`` in [-1, 1] to logits ``(B, K)``."""
        hidden = F.relu(self.hidden(self.convolutions(images).flatten(1)))
        logits: Tensor = self.classes(F.dropout(hidden, 0.3, self.training))
        return logits


class DigitsExtractor(NetworkExtractor):
    """The 128 activations before the last layer of a classifier that was trained on the data set, and its logits.

    It is trained in seconds, always to the same weights, and kept in the cache of features.

    Args:
        source: Images of at least two classes.
        device: Where features are computed; training is on the CPU.
        cache_dir: Folder of all caches; None: the user's.
        cache_key: The setting or argument that ``cache_dir`` comes from, for messages.
        say: Called with a line about the classifier; None prints it on standard error.

    Attributes:
        held_out_accuracy: Share of held-out images, none of which was trained on, that it classifies correctly.
        num_held_out: Number of these images.
        num_trained: Number of images that it was trained on.

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
        say: Report | None = None,
    ) -> None:
        num_classes = len(source.class_names)
        if num_classes < 2:
            raise ValueError(
                f"features = digits trains a classifier and needs images of two classes or more, got {num_classes}: "
                "put the images of each class into a folder of their own, or take features=pixels"
            )
        if source.channels not in (1, 3):
            raise ValueError(f"features = digits takes images of 1 or 3 channels, got {source.channels}")
        size, channels, images = min(source.image_size, LARGEST), source.channels, data_fingerprint(source)
        found = cached_tensors(
            f"classifier_{FORMAT}-{images[:16]}-torch_{torch.__version__}",
            {"format": FORMAT, "data_fingerprint": images, "torch": torch.__version__},
            lambda: _trained(source, size, channels),
            say or _say,
            cache_dir,
            cache_key,
            doing="training the same classifier",
        )
        self.held_out_accuracy: float = found.about["held_out_accuracy"]
        self.num_held_out: int = found.about["num_held_out"]
        self.num_trained: int = found.about["num_trained"]
        learnt = f"{self.num_trained:,} images; it classifies {self.held_out_accuracy:.1%} of {self.num_held_out:,}"
        self.notes = (f"features=digits: the classifier was trained on {learnt} others correctly.",)
        if not found.was_there:
            (say or _say)(f"features=digits: trained a classifier on {learnt} held-out ones correctly")
        self.size = size
        network = _new(channels, num_classes, size)
        network.load_state_dict(found.tensors)
        super().__init__(network, device, channels)

    def prepare(self, pixels: Pixels) -> Images:
        assert self.size is not None
        return _prepared(pixels, self.size)

    def forward(self, images: Images) -> Extracted:
        assert isinstance(self.network, DigitClassifier)
        values = F.relu(deterministic_linear(self.network.hidden, self.network.convolutions(images).flatten(1)))
        return Extracted(values, deterministic_linear(self.network.classes, values))


def _say(line: str) -> None:
    print(printable(line), file=sys.stderr)


def _new(channels: int, num_classes: int, size: int) -> DigitClassifier:
    with seed_host_generators(SEED):
        return DigitClassifier(channels, num_classes, size)


def _prepared(pixels: Pixels, size: int) -> Images:
    images = resize_images(pixels, size).float() / 127.5 - 1
    return images.contiguous(memory_format=torch.channels_last)


def _trained(source: ImageSource, size: int, channels: int) -> tuple[Tensors, Mapping[str, Any]]:
    """Weights of a classifier, and how good it is."""
    if len(source) > MOST_IMAGES:
        source = Subset(source, np.linspace(0, len(source) - 1, MOST_IMAGES, dtype=np.int64))
    if np.bincount(source.labels).max() < 2:
        raise ValueError(
            "features = digits needs two images or more of some class, one of which is held out: give more images, or "
            "take features=pixels"
        )
    pixels = _loaded(source, size, channels)
    labels = torch.from_numpy(source.labels.copy())
    kept, held_out = (torch.from_numpy(indices) for indices in balanced_split(source.labels, HELD_OUT, SEED))
    network = _new(channels, len(source.class_names), size).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    # Sums over threads round in an order of their own: with one, the weights do not depend on their number.
    with use_threads(1), torch.enable_grad(), torch.autocast("cpu", enabled=False):
        _train(network, pixels[kept], labels[kept])
    network.eval()
    with torch.inference_mode():
        right = sum(
            int((network(_prepared(pixels[chosen], size)).argmax(1) == labels[chosen]).sum())
            for chosen in held_out.split(256)
        )
    weights = {name: weight.detach().contiguous() for name, weight in network.state_dict().items()}
    accuracy = {"held_out_accuracy": right / len(held_out), "num_held_out": len(held_out)}
    return weights, {**accuracy, "num_trained": len(kept)}


def _loaded(source: ImageSource, size: int, channels: int) -> Pixels:
    parts = np.array_split(np.arange(len(source), dtype=np.int64), -(-len(source) // 256))
    return torch.cat([_loaded_part(source, part, size, channels) for part in parts])


def _loaded_part(source: ImageSource, indices: IndexArray, size: int, channels: int) -> Pixels:
    return resize_images(with_channels(torch.from_numpy(source.load_batch(indices, None)), channels), size).contiguous()


def is_large(image_size: int) -> bool:
    """Whether images are large enough to be halved at once, and to need more training."""
    return image_size >= 16


def _train(network: DigitClassifier, pixels: Pixels, labels: Labels) -> None:
    """AdamW with one cycle of the learning rate, on images that are moved and bent a little."""
    size = pixels.shape[-1]
    steps = STEPS_OF_LARGE if is_large(size) else STEPS
    generator = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    network.train()
    with seed_host_generators(SEED):  # for dropout
        for _ in range(steps):
            chosen = torch.randint(len(pixels), (BATCH,), generator=generator)
            images = _bent(_prepared(pixels[chosen], size), generator)
            loss = F.cross_entropy(network(images), labels[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def _bent(images: Images, generator: torch.Generator) -> Images:
    """Each image moved, turned, stretched and slanted at random; the pixels at its edge go on outside."""
    maps = torch.eye(2, 3).repeat(len(images), 1, 1)
    maps[:, :, :2] += BENT * (2 * torch.rand(len(images), 2, 2, generator=generator) - 1)
    maps[:, :, 2] = 2 * MOVED * (2 * torch.rand(len(images), 2, generator=generator) - 1)
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
