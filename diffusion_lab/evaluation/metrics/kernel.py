"""Kernel distance: the squared maximum mean discrepancy with a cubic kernel, without bias."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion_lab.evaluation.metrics.arrays import Array, checked_pair, chunks
from diffusion_lab.evaluation.metrics.estimate import Estimate, normal_estimate
from diffusion_lab.runtime.seeds import derive_seed

LEAST_IMAGES = 3
SUBSETS, SUBSET_SIZE = 100, 1000
"""As published."""

Indices = NDArray[np.int64]

ROWS, COLUMNS = 1024, 4096
"""Size of the blocks of kernel values that are in memory at once: 32 MiB."""

LIMIT = 4000
"""Images of each set from which the standard error is computed; with more it is scaled."""


@dataclass(frozen=True)
class KernelEstimate(Estimate):
    """A kernel distance with the settings it was computed with.

    Args:
        subset_size: Images in each subset: the requested number, or all of the smaller set where that has fewer.
        subset_deviation: Standard deviation of the distance over the subsets, the figure that papers give after ±.
    """

    subset_size: int = 0
    subset_deviation: float = 0.0


@dataclass(frozen=True, eq=False)
class KernelSums:
    """Random subsets of a set of images, and the kernel's sum within each, without that of an image with itself."""

    subsets: list[Indices]
    within: Array

    @classmethod
    def of(cls, features: Tensor, subsets: int, size: int, seed: int, role: str = "reference") -> KernelSums:
        """Draw ``subsets`` subsets of ``size`` images without replacement."""
        generator = np.random.default_rng(derive_seed("kernel distance", role, seed))
        drawn = [np.sort(generator.choice(len(features), size, replace=False)) for _ in range(subsets)]
        return cls(drawn, _sums(features, features, drawn, drawn))


def kernel_distance(
    samples: Tensor,
    reference: Tensor,
    *,
    subsets: int = SUBSETS,
    subset_size: int = SUBSET_SIZE,
    seed: int = 0,
    reference_sums: KernelSums | None = None,
) -> KernelEstimate:
    """Return the kernel distance (arXiv:1801.01401; KID where the features are Inception's) with its standard error.

    The unbiased squared MMD with the kernel ``(x·y / D + 1)³``, as a mean over random subsets of both sets, 100 of
    1,000 images as published. It can be negative where the sets do not differ. The published ± is the deviation over
    subsets, which is not the error of their mean: subsets of 1,000 from 1,000 images are all the same. The standard
    error here is that of the samples (a jackknife, with the reference as given) and that of the choice of subsets.

    Args:
        samples: Features ``(N, D)``, N at least 3.
        reference: Features ``(M, D)``, M at least 3.
        subsets: How many subsets, at least 2.
        subset_size: Images in each, at least 2; all of the smaller set where that has fewer.
        seed: Which images each subset holds.
        reference_sums: ``KernelSums.of(reference, subsets, size, seed)`` where they are known already, with the size
            that the subsets will have.

    Raises:
        ValueError: There are too few images or subsets, or features that do not fit together or are not finite.
    """
    samples, reference = checked_pair(samples, reference, least=LEAST_IMAGES)
    for name, value in (("subsets", subsets), ("subset_size", subset_size)):
        if value < 2:
            raise ValueError(f"{name} must be at least 2, got {value}")
    size = min(subset_size, len(samples), len(reference))
    here = KernelSums.of(samples, subsets, size, seed, "samples")
    there = reference_sums or KernelSums.of(reference, subsets, size, seed)
    if (len(there.subsets), len(there.subsets[0])) != (subsets, size):
        raise ValueError(
            f"reference_sums must be of {subsets} subsets of {size} images, got {len(there.subsets)} of "
            f"{len(there.subsets[0])}"
        )
    across = _sums(samples, reference, here.subsets, there.subsets)
    distances = (here.within + there.within) / (size * (size - 1)) - 2 * across / size**2
    return _estimate(distances, _jackknife_error(samples, reference, seed), size)


def _estimate(distances: Array, sampling_error: float, size: int) -> KernelEstimate:
    deviation = float(distances.std(ddof=1))
    error = math.hypot(sampling_error, deviation / math.sqrt(len(distances)))
    method = (
        f"mean of {len(distances)} subsets of {size}; normal interval by the jackknife over the samples and the "
        "spread of the subsets, with the reference as given"
    )
    made = normal_estimate(float(distances.mean()), error, method)
    return KernelEstimate(made.value, made.low, made.high, error, method, size, deviation)


def _sums(first: Tensor, second: Tensor, ours: list[Indices], theirs: list[Indices]) -> Array:
    """Sum of the kernel between the images of each pair of subsets, without those of an image with itself."""
    alike = first is second
    if len(first) * len(second) <= len(ours) * len(ours[0]) ** 2:  # all kernel values are fewer than those of subsets
        sums = _sums_of_blocks(first, second, _membership(ours, len(first)), _membership(theirs, len(second)))
    else:
        pairs = zip(ours, theirs, strict=True)
        sums = np.array([_kernel(_rows(first, one), _rows(second, other)).sum() for one, other in pairs])
    if alike:
        own = np.concatenate([(np.square(rows).mean(axis=1) + 1) ** 3 for _, rows in chunks(first)])
        sums = sums - np.array([own[one].sum() for one in ours])
    return sums


def _sums_of_blocks(first: Tensor, second: Tensor, ours: Array, theirs: Array) -> Array:
    sums = np.zeros(len(ours))
    for row, rows in chunks(first, ROWS):
        for column, columns in chunks(second, COLUMNS):
            block = torch.from_numpy(_kernel(rows, columns))
            inside = (torch.from_numpy(ours[:, row : row + len(rows)]) @ block).numpy()
            sums += (inside * theirs[:, column : column + len(columns)]).sum(axis=1)
    return sums


def _membership(subsets: list[Indices], count: int) -> Array:
    """Which images are in each subset, as zeros and ones ``(subsets, count)``."""
    membership = np.zeros((len(subsets), count))
    for row, subset in zip(membership, subsets, strict=True):
        row[subset] = 1
    return membership


def _jackknife_error(samples: Tensor, reference: Tensor, seed: int) -> float:
    """Standard error over the samples of the distance of all images, which leaving out each image in turn gives."""
    some, others = _some(samples, seed, "samples"), _some(reference, seed, "reference")
    own = np.concatenate([(np.square(rows).mean(axis=1) + 1) ** 3 for _, rows in chunks(some)])
    within, across = _row_sums(some, some) - own, _row_sums(some, others)
    count = len(some)
    left = (within.sum() - 2 * within) / ((count - 1) * (count - 2))
    left -= 2 * (across.sum() - across) / ((count - 1) * len(others))
    variance = (count - 1) / count * float(np.square(left - left.mean()).sum())
    return math.sqrt(variance * count / len(samples))


def _some(features: Tensor, seed: int, role: str) -> Tensor:
    if len(features) <= LIMIT:
        return features
    generator = np.random.default_rng(derive_seed("error of the kernel distance", role, seed))
    return features[torch.from_numpy(np.sort(generator.choice(len(features), LIMIT, replace=False)))]


def _row_sums(first: Tensor, second: Tensor) -> Array:
    return np.concatenate(
        [
            sum((_kernel(rows, columns).sum(axis=1) for _, columns in chunks(second, COLUMNS)), np.zeros(len(rows)))
            for _, rows in chunks(first, ROWS)
        ]
    )


def _kernel(first: Array, second: Array) -> Array:
    from torchmetrics.image.kid import poly_kernel  # takes seconds to import

    values: Array = poly_kernel(torch.from_numpy(first), torch.from_numpy(second)).numpy()
    return values


def _rows(features: Tensor, indices: Indices) -> Array:
    rows: Array = features[torch.from_numpy(indices)].double().numpy()
    return rows
