"""What turns images into vectors that metrics compare, and how it is done the same way bit by bit each time."""

from __future__ import annotations

import contextlib
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion_lab.shapes import Images, Pixels

BATCH_SIZE = 16
"""Images that a network sees at a time: the fastest number for EfficientNet-Lite0 on a CPU, and small for a GPU."""

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in gray (ITU-R BT.601), as in Pillow."""


class Extracted(NamedTuple):
    """Features of some images, on the CPU.

    Attributes:
        values: The features, float32 ``(N, D)``.
        logits: What a classifier says before the softmax, float32 ``(N, K)``; None where there is no classifier.
    """

    values: Tensor
    logits: Tensor | None = None


class FeatureExtractor(ABC):
    """Turns images into features.

    A class of your own derives from this one, sets ``name`` and ``num_features``, and gives a ``fingerprint`` and
    ``__call__``. It is made without arguments, or with those of ``device``, ``source``, ``weights`` and ``sha256`` that
    its constructor names.

    Attributes:
        name: Its name, for files and for names of metrics.
        size: Side in pixels of the images that the network sees; None: the size of the images themselves.
        num_features: Number D of features.
        has_logits: Whether it classifies as well, which Inception Score and label agreement need.
        notes: What has to be known of the features to judge numbers computed from them, in sentences.
    """

    name: str
    size: int | None = None
    num_features: int
    has_logits: bool = False
    notes: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Name and size, such as ``efflite0@96``."""
        return self.name if self.size is None else f"{self.name}@{self.size}"

    @property
    def device_kind(self) -> str:
        """Kind of device that it computes on, such as ``cuda``: each kind rounds in its own way."""
        return str(getattr(self, "device", "cpu")).partition(":")[0]

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of the weights and of how images are prepared."""

    @abstractmethod
    def __call__(self, pixels: Pixels) -> Extracted:
        """Extract the features of images.

        The result for an image must not depend on the others.

        Args:
            pixels: uint8 ``(N, C, H, W)`` of 1 or 3 channels, N from 0 on.
        """


class NetworkExtractor(FeatureExtractor):
    """A network that sees square images of one size, always in batches of ``BATCH_SIZE``.

    The last batch is filled up: how a sum is split among instructions depends on the shape of a batch, and with it the
    last bits of the result. So features are the same bit by bit however images are divided into calls.

    Args:
        network: The network, in evaluation mode.
        device: Where it computes.
        channels: Of the images that the network sees; others are converted.
    """

    preparation: str
    """What is done to images before the network, in words that change when it does."""

    def __init__(self, network: nn.Module, device: str | torch.device = "cpu", channels: int = 3) -> None:
        self.device, self.channels = torch.device(device), channels
        self.network = network.eval().requires_grad_(False).to(self.device)
        self._fingerprint = fingerprint_of(network.state_dict(), self.preparation, self.size, channels)

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    @abstractmethod
    def prepare(self, pixels: Pixels) -> Images:
        """Turn uint8 ``(B, C, H, W)`` of the network's channels into what the network takes."""

    @abstractmethod
    def forward(self, images: Images) -> Extracted:
        """Compute the features of a full batch, on the device."""

    def __call__(self, pixels: Pixels) -> Extracted:
        refuse_other_pixels(pixels)
        values = torch.empty(len(pixels), self.num_features)
        logits: list[Tensor] = []
        with deterministic_math():
            for start in range(0, max(len(pixels), 1), BATCH_SIZE):  # once for no images, to know the classes
                found = self._batch(pixels[start : start + BATCH_SIZE])
                values[start : start + BATCH_SIZE] = found.values
                if found.logits is not None:
                    logits.append(found.logits)
        return Extracted(values, torch.cat(logits) if logits else None)

    def _batch(self, pixels: Pixels) -> Extracted:
        count = len(pixels)
        full = torch.zeros(BATCH_SIZE, *pixels.shape[1:], dtype=torch.uint8)
        full[:count] = pixels
        found = self.forward(self.prepare(with_channels(full, self.channels).to(self.device)))
        kept = (None if part is None else part[:count].float().cpu() for part in found)
        values, logits = kept
        assert values is not None  # of Extracted
        return Extracted(values, logits)


@contextlib.contextmanager
def deterministic_math() -> Iterator[None]:
    """Compute in full float32 and by the same algorithms each time, whatever the caller has set."""
    matmul = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with (
            torch.inference_mode(),
            torch.autocast("cuda", enabled=False),
            torch.autocast("cpu", enabled=False),
            torch.backends.cudnn.flags(
                enabled=torch.backends.cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False
            ),
        ):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = matmul


def deterministic_linear(layer: nn.Linear, values: Tensor) -> Tensor:
    """Apply a linear layer to ``(B, D)``, with sums that do not depend on the row of an image in the batch.

    Libraries for matrices may sum the rows at the end of a matrix in another order. In float64 no such difference
    reaches the digits of float32.
    """
    if values.device.type == "mps":  # which has no float64
        return layer(values)  # type: ignore[no-any-return]
    return F.linear(values.double(), layer.weight.double(), layer.bias.double()).float()


def refuse_other_pixels(pixels: Pixels) -> None:
    """Raise ValueError for what is not uint8 ``(N, C, H, W)`` of 1 or 3 channels."""
    shape = tuple(pixels.shape)
    if pixels.dtype != torch.uint8 or len(shape) != 4 or shape[1] not in (1, 3) or min(shape[2:], default=0) < 1:
        raise ValueError(
            f"pixels must be uint8 (N, C, H, W) of 1 or 3 channels, got {pixels.dtype} {shape}: lay transparent images "
            "onto a background first (channels=3 of open_image_set does)"
        )


def with_channels(pixels: Pixels, channels: int) -> Pixels:
    """Turn gray images ``(N, 1, H, W)`` into colour ones or back: repeated, or weighed as in Pillow and rounded."""
    if pixels.shape[1] == channels:
        return pixels
    if channels == 3:
        return pixels.expand(-1, 3, -1, -1)
    red, green, blue = pixels.double().unbind(1)
    gray = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
    return gray.round().byte()[:, None]


def resize_images(pixels: Pixels, size: int) -> Pixels:
    """Resize uint8 ``(N, C, H, W)`` to ``size`` × ``size``, bicubic, antialiased where it shrinks (arXiv:2104.11222).

    Images are resized on the CPU, where torch counts in whole numbers, so that every machine gives the same pixels.
    """
    if pixels.shape[2:] == (size, size):
        return pixels
    on_cpu = pixels.cpu().contiguous(memory_format=torch.channels_last)
    return F.interpolate(on_cpu, (size, size), mode="bicubic", antialias=True).to(pixels.device)


def fingerprint_of(weights: Mapping[str, Tensor], *facts: object) -> str:
    """SHA-256, in hexadecimal, of weights by their names, and of facts by how they print."""
    found = hashlib.sha256(repr(facts).encode())
    for name, weight in weights.items():
        found.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        found.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
