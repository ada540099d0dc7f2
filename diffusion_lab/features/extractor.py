"""Feature extractors, which map images to vectors that metrics compare, bit-identically each time."""

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
"""Batch size of networks: the fastest for EfficientNet-Lite0 on a CPU, and small for a GPU."""

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue for conversion to gray (ITU-R BT.601), as in Pillow."""


class Extracted(NamedTuple):
    """Features of a batch of images, on the CPU.

    Attributes:
        values: The features, float32 ``(N, D)``.
        logits: Logits of a classifier, float32 ``(N, K)``; None without a classifier.
    """

    values: Tensor
    logits: Tensor | None = None


class FeatureExtractor(ABC):
    """Feature extractor: base class of the built-in and custom ones.

    A custom class derives from this one, sets ``name`` and ``num_features``, and implements ``fingerprint`` and
    ``__call__``. Its constructor is called with those of ``device``, ``source``, ``weights`` and ``sha256`` that it has
    parameters for.

    Attributes:
        name: Name for files and metrics.
        size: Side in pixels of the network's input; None if images are not resized.
        num_features: Number D of features.
        has_logits: Whether it returns logits, which Inception Score and label agreement need.
        notes: Sentences about the features that are needed to interpret metrics computed from them.
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
        """Type of its device, such as ``cuda``; rounding depends on it."""
        return str(getattr(self, "device", "cpu")).partition(":")[0]

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of the weights and the preprocessing."""

    @abstractmethod
    def __call__(self, pixels: Pixels) -> Extracted:
        """Extract the features of images.

        The result for an image must not depend on the others.

        Args:
            pixels: uint8 ``(N, C, H, W)`` with 1 or 3 channels, N ≥ 0.
        """


class NetworkExtractor(FeatureExtractor):
    """Feature extractor with a network, applied to square images of one size in batches of ``BATCH_SIZE``.

    The last batch is padded: the order of summation depends on the batch shape, and the last bits of the result depend
    on that order. So features are bit-identical however images are split into calls.

    Args:
        network: The network, in evaluation mode.
        device: Device of the network.
        channels: Channels of the network's input; images with other channels are converted.
    """

    preparation: str
    """Description of the preprocessing, part of the fingerprint, so it must change with the preprocessing."""

    def __init__(self, network: nn.Module, device: str | torch.device = "cpu", channels: int = 3) -> None:
        self.device, self.channels = torch.device(device), channels
        self.network = network.eval().requires_grad_(False).to(self.device)
        self._fingerprint = compute_fingerprint(network.state_dict(), self.preparation, self.size, channels)

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    @abstractmethod
    def prepare(self, pixels: Pixels) -> Images:
        """Preprocess uint8 ``(B, C, H, W)`` with the network's channels into the network's input."""

    @abstractmethod
    def forward(self, images: Images) -> Extracted:
        """Compute the features of a full batch on the device."""

    def __call__(self, pixels: Pixels) -> Extracted:
        check_pixels(pixels)
        values = torch.empty(len(pixels), self.num_features)
        logits: list[Tensor] = []
        with deterministic_math():
            for start in range(0, max(len(pixels), 1), BATCH_SIZE):  # once without images, for the number of classes
                batch = self._extract_batch(pixels[start : start + BATCH_SIZE])
                values[start : start + BATCH_SIZE] = batch.values
                if batch.logits is not None:
                    logits.append(batch.logits)
        return Extracted(values, torch.cat(logits) if logits else None)

    def _extract_batch(self, pixels: Pixels) -> Extracted:
        count = len(pixels)
        padded = torch.zeros(BATCH_SIZE, *pixels.shape[1:], dtype=torch.uint8)
        padded[:count] = pixels
        extracted = self.forward(self.prepare(with_channels(padded, self.channels).to(self.device)))
        values, logits = (None if part is None else part[:count].float().cpu() for part in extracted)
        assert values is not None  # never None in Extracted
        return Extracted(values, logits)


@contextlib.contextmanager
def deterministic_math() -> Iterator[None]:
    """Compute in full float32 with deterministic algorithms, independent of the caller's settings."""
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
    """Apply a linear layer to ``(B, D)``, so that the result of a row does not depend on its position in the batch.

    BLAS libraries may sum the last rows of a matrix in another order. With float64 such differences are below the
    precision of float32.
    """
    if values.device.type == "mps":  # has no float64
        return layer(values)  # type: ignore[no-any-return]
    return F.linear(values.double(), layer.weight.double(), layer.bias.double()).float()


def check_pixels(pixels: Pixels) -> None:
    """Raise ValueError unless pixels are uint8 ``(N, C, H, W)`` with 1 or 3 channels."""
    shape = tuple(pixels.shape)
    if pixels.dtype != torch.uint8 or len(shape) != 4 or shape[1] not in (1, 3) or min(shape[2:], default=0) < 1:
        raise ValueError(
            f"pixels must be uint8 (N, C, H, W) of 1 or 3 channels, got {pixels.dtype} {shape}: composite "
            "transparent images over a background first (as channels=3 of open_image_set does)"
        )


def with_channels(pixels: Pixels, channels: int) -> Pixels:
    """Convert images ``(N, C, H, W)`` from gray to RGB by repetition, or to gray by the weights of Pillow, rounded."""
    if pixels.shape[1] == channels:
        return pixels
    if channels == 3:
        return pixels.expand(-1, 3, -1, -1)
    red, green, blue = pixels.double().unbind(1)
    gray = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
    return gray.round().byte()[:, None]


def resize_images(pixels: Pixels, size: int) -> Pixels:
    """Resize uint8 ``(N, C, H, W)`` to ``size`` × ``size``, bicubic, antialiased when downsampling (arXiv:2104.11222).

    Images are resized on the CPU, where torch uses integer arithmetic, so that pixels are the same on every machine.
    """
    if pixels.shape[2:] == (size, size):
        return pixels
    on_cpu = pixels.cpu().contiguous(memory_format=torch.channels_last)
    return F.interpolate(on_cpu, (size, size), mode="bicubic", antialias=True).to(pixels.device)


def compute_fingerprint(weights: Mapping[str, Tensor], *facts: object) -> str:
    """Return the SHA-256, in hexadecimal, of named weights and of the ``repr`` of further facts."""
    sha256 = hashlib.sha256(repr(facts).encode())
    for name, weight in weights.items():
        sha256.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        sha256.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return sha256.hexdigest()
