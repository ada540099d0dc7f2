"""Kernel distance: unbiased squared maximum mean discrepancy with a cubic kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion_lab.evaluation.metrics.arrays import Array, checked_pair, chunks
from diffusion_lab.evaluation.metrics.estimate import Estimate, normal_estimate
from diffusion_lab.runtime import torchvision_import
from diffusion_lab.runtime.seeds import derive_seed

MIN_IMAGES = 3
SUBSETS, SUBSET_SIZE = 100, 1000
"""Published number and size of the subsets."""

Indices = NDArray[np.int64]

ROWS, COLUMNS = 1024, 4096
"""Size of the blocks of kernel values held in memory: 32 MiB."""

LIMIT = 4000
"""Maximum number of images of each set for computing the standard error; for larger sets it is rescaled."""


@dataclass(frozen=True)
class KernelEstimate(Estimate):
    """Kernel distance with the settings it was computed with.

    Args:
        subset_size: Images in each subset: the requested number, or the size of the smaller set if that is less.
        subset_deviation: Standard deviation of the distance over the subsets, the number that papers report after ±.
    """

    subset_size: int = 0
    subset_deviation: float = 0.0


@dataclass(frozen=True, eq=False)
class KernelSums:
    """Random subsets of a set of images, with the sum of the kernel within each, excluding pairs (i, i)."""

    subsets: list[Indices]
    within: Array

    @classmethod
    def from_features(cls, features: Tensor, subsets: int, size: int, seed: int, role: str = "reference") -> KernelSums:
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
    """Return the kernel distance (arXiv:1801.01401; KID on Inception features) with its standard error.

    The unbiased squared MMD with the kernel ``(x·y / D + 1)³``, averaged over random subsets of both sets, by default
    100 of 1,000 images as published. It can be negative if the sets do not differ. The published ± is the deviation
    over subsets, which is not the error of their mean: subsets of 1,000 from 1,000 images are all the same. The
    standard error combines that of the samples (jackknife, with the reference as given) and that of the subsets.

    Args:
        samples: Features ``(N, D)``, N at least 3.
        reference: Features ``(M, D)``, M at least 3.
        subsets: Number of subsets, at least 2.
        subset_size: Images in each subset, at least 2; limited to the size of the smaller set.
        seed: Seed of the random subsets.
        reference_sums: ``KernelSums.from_features(reference, subsets, size, seed)`` if already computed, with the size
            that the subsets will have.

    Raises:
        ValueError: There are too few images or subsets, the numbers of features differ, or features are not finite.
    """
    samples, reference = checked_pair(samples, reference, min_images=MIN_IMAGES)
    for name, value in (("subsets", subsets), ("subset_size", subset_size)):
        if value < 2:
            raise ValueError(f"{name} must be at least 2, got {value}")
    size = min(subset_size, len(samples), len(reference))
    sample_sums = KernelSums.from_features(samples, subsets, size, seed, "samples")
    reference_sums = reference_sums or KernelSums.from_features(reference, subsets, size, seed)
    if (len(reference_sums.subsets), len(reference_sums.subsets[0])) != (subsets, size):
        raise ValueError(
            f"reference_sums must be of {subsets} subsets of {size} images, got {len(reference_sums.subsets)} of "
            f"{len(reference_sums.subsets[0])}"
        )
    across = _sums(samples, reference, sample_sums.subsets, reference_sums.subsets)
    distances = (sample_sums.within + reference_sums.within) / (size * (size - 1)) - 2 * across / size**2
    return _estimate(distances, _jackknife_error(samples, reference, seed), size)


def _estimate(distances: Array, sampling_error: float, size: int) -> KernelEstimate:
    deviation = float(distances.std(ddof=1))
    error = math.hypot(sampling_error, deviation / math.sqrt(len(distances)))
    method = (
        f"mean of {len(distances)} subsets of {size}; normal interval by the jackknife over the samples and the "
        "spread of the subsets, with the reference as given"
    )
    estimate = normal_estimate(float(distances.mean()), error, method)
    return KernelEstimate(estimate.value, estimate.low, estimate.high, error, method, size, deviation)


def _sums(first: Tensor, second: Tensor, first_subsets: list[Indices], second_subsets: list[Indices]) -> Array:
    """Return the sum of the kernel over each pair of subsets; if both sets are one, without pairs (i, i)."""
    subset_values = len(first_subsets) * len(first_subsets[0]) ** 2
    if len(first) * len(second) <= subset_values:  # the whole kernel matrix is the cheaper way
        memberships = _membership(first_subsets, len(first)), _membership(second_subsets, len(second))
        sums = _blockwise_sums(first, second, *memberships)
    else:
        pairs = zip(first_subsets, second_subsets, strict=True)
        sums = np.array([_kernel(_rows(first, one), _rows(second, other)).sum() for one, other in pairs])
    if first is second:
        diagonal = np.concatenate([(np.square(rows).mean(axis=1) + 1) ** 3 for _, rows in chunks(first)])
        sums = sums - np.array([diagonal[subset].sum() for subset in first_subsets])
    return sums


def _blockwise_sums(first: Tensor, second: Tensor, first_membership: Array, second_membership: Array) -> Array:
    sums = np.zeros(len(first_membership))
    for row, rows in chunks(first, ROWS):
        for column, columns in chunks(second, COLUMNS):
            block = torch.from_numpy(_kernel(rows, columns))
            inside = (torch.from_numpy(first_membership[:, row : row + len(rows)]) @ block).numpy()
            sums += (inside * second_membership[:, column : column + len(columns)]).sum(axis=1)
    return sums


def _membership(subsets: list[Indices], count: int) -> Array:
    """Return an indicator matrix ``(subsets, count)``: 1 for the images in each subset, else 0."""
    membership = np.zeros((len(subsets), count))
    for row, subset in zip(membership, subsets, strict=True):
        row[subset] = 1
    return membership


def _jackknife_error(samples: Tensor, reference: Tensor, seed: int) -> float:
    """Return the jackknife standard error, over the samples, of the distance of all images."""
    subset, others = _limited(samples, seed, "samples"), _limited(reference, seed, "reference")
    diagonal = np.concatenate([(np.square(rows).mean(axis=1) + 1) ** 3 for _, rows in chunks(subset)])
    within, across = _row_sums(subset, subset) - diagonal, _row_sums(subset, others)
    count = len(subset)
    leave_one_out = (within.sum() - 2 * within) / ((count - 1) * (count - 2))
    leave_one_out -= 2 * (across.sum() - across) / ((count - 1) * len(others))
    variance = (count - 1) / count * float(np.square(leave_one_out - leave_one_out.mean()).sum())
    return math.sqrt(variance * count / len(samples))


def _limited(features: Tensor, seed: int, role: str) -> Tensor:
    """Return the features, or ``LIMIT`` random ones of them."""
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
    torchvision_import.install()
    from torchmetrics.image.kid import poly_kernel  # takes seconds to import

    values: Array = poly_kernel(torch.from_numpy(first), torch.from_numpy(second)).numpy()
    return values


def _rows(features: Tensor, indices: Indices) -> Array:
    rows: Array = features[torch.from_numpy(indices)].double().numpy()
    return rows
