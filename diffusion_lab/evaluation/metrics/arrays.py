"""Checked features for the metrics, in float64 and in chunks of a fixed size.

Results do not depend on the batches in which features were computed or on the number of threads: chunks have a fixed
size, sums are NumPy's, which are single-threaded, and decompositions run on one thread. Only matrix products use more;
they are bitwise equal for any number of threads unless there are too many rows, hence the chunks.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]

CHUNK = 4096
"""Rows of features that are converted to float64 at once: 64 MiB with 2,048 features."""


def checked_features(features: Tensor, name: str, *, min_images: int = 1) -> Tensor:
    """Return features ``(N, D)`` on the CPU, after checking them.

    Args:
        features: Features of N images.
        name: Name of the argument in messages.
        min_images: Minimum number of images.

    Raises:
        TypeError: The features are not a floating-point tensor.
        ValueError: The features are not ``(N, D)``, too few, or not all finite.
    """
    if not isinstance(features, Tensor) or not features.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor (N, D), got {_kind(features)}")
    if features.ndim != 2 or features.shape[1] < 1:
        raise ValueError(f"{name} must be (N, D), one row of features for each image, got {tuple(features.shape)}")
    if len(features) < min_images:
        raise ValueError(f"{name} must be features of at least {min_images} images, got {len(features)}")
    features = features.detach().cpu().contiguous()  # matrix products in another memory order round differently
    finite = torch.cat([part.isfinite().all(dim=1) for part in features.split(CHUNK)])
    if not finite.all():
        image = int((~finite).nonzero()[0])
        raise ValueError(f"{name} must be finite, but the features of image {image} contain NaN or infinity")
    return features


def checked_pair(samples: Tensor, reference: Tensor, *, min_images: int = 1) -> tuple[Tensor, Tensor]:
    """Return both sets after checking that they have the same number of features.

    Raises:
        TypeError: One is not a floating-point tensor.
        ValueError: One fails the checks of :func:`checked_features`, or they differ in the number of features.
    """
    samples = checked_features(samples, "samples", min_images=min_images)
    reference = checked_features(reference, "reference", min_images=min_images)
    check_widths(samples.shape[1], reference.shape[1])
    return samples, reference


def check_widths(first: int, second: int, names: str = "samples and reference") -> None:
    """Raise ValueError if two sets have different numbers of features."""
    if first != second:
        raise ValueError(f"{names} must have the same number of features, got {first} and {second}")


def chunks(features: Tensor, size: int = CHUNK) -> Iterator[tuple[int, Array]]:
    """Yield the features in float64, ``size`` rows at a time, each chunk with the index of its first row."""
    for start in range(0, len(features), size):
        yield start, features[start : start + size].double().numpy()


def column_means(features: Tensor) -> Array:
    """Return the mean of each feature ``(D,)``, in two passes: the second corrects the rounding of the first."""
    mean = np.zeros(features.shape[1])
    for _ in range(2):
        mean = mean + sum((rows - mean).sum(axis=0) for _, rows in chunks(features)) / len(features)
    return mean


def products(first: Array, second: Array) -> Array:
    """Return ``first @ second.T``, computed with all threads."""
    result: Array = (torch.from_numpy(first) @ torch.from_numpy(second).T).numpy()
    return result


def _kind(value: object) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
