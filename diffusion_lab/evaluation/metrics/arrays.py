"""Features as the metrics compute with them: checked, in float64, in chunks of a fixed size.

Nothing here depends on the batches in which features were made or on the number of threads: chunks have a fixed size,
sums are NumPy's, which one thread computes, and decompositions run on one thread. Only products of matrices use more;
they give the same bits for any number of threads where the rows are not too many, hence the chunks.
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


def checked_features(features: Tensor, name: str, *, least: int = 1) -> Tensor:
    """Return features ``(N, D)`` on the CPU, after checking them.

    Args:
        features: The features of N images.
        name: What the argument is called in messages.
        least: How many images are needed.

    Raises:
        TypeError: They are no floating-point tensor.
        ValueError: They are not ``(N, D)``, too few, or not all finite.
    """
    if not isinstance(features, Tensor) or not features.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor (N, D), got {_kind(features)}")
    if features.ndim != 2 or features.shape[1] < 1:
        raise ValueError(f"{name} must be (N, D), one row of features for each image, got {tuple(features.shape)}")
    if len(features) < least:
        raise ValueError(f"{name} must be features of at least {least} images, got {len(features)}")
    features = features.detach().cpu().contiguous()  # products of matrices in another order round differently
    finite = torch.cat([part.isfinite().all(dim=1) for part in features.split(CHUNK)])
    if not finite.all():
        image = int((~finite).nonzero()[0])
        raise ValueError(f"{name} must be finite, but those of image {image} hold NaN or infinity")
    return features


def checked_pair(samples: Tensor, reference: Tensor, *, least: int = 1) -> tuple[Tensor, Tensor]:
    """Return both sets after checking that they are features of one kind.

    Raises:
        TypeError: One is no floating-point tensor.
        ValueError: One fails the checks of :func:`checked_features`, or they differ in the number of features.
    """
    samples = checked_features(samples, "samples", least=least)
    reference = checked_features(reference, "reference", least=least)
    check_widths(samples.shape[1], reference.shape[1])
    return samples, reference


def check_widths(first: int, second: int, names: str = "samples and reference") -> None:
    """Raise ValueError where two sets have different numbers of features."""
    if first != second:
        raise ValueError(f"{names} must have the same number of features, got {first} and {second}")


def chunks(features: Tensor, size: int = CHUNK) -> Iterator[tuple[int, Array]]:
    """Yield the features in float64, ``size`` rows at a time, each with the number of its first row."""
    for start in range(0, len(features), size):
        yield start, features[start : start + size].double().numpy()


def column_means(features: Tensor) -> Array:
    """Return the mean of each feature ``(D,)``, in two passes: the second removes the rounding of the first."""
    mean = np.zeros(features.shape[1])
    for _ in range(2):
        mean = mean + sum((rows - mean).sum(axis=0) for _, rows in chunks(features)) / len(features)
    return mean


def products(first: Array, second: Array) -> Array:
    """Return ``first @ second.T``, with all threads."""
    result: Array = (torch.from_numpy(first) @ torch.from_numpy(second).T).numpy()
    return result


def _kind(value: object) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
