"""Separate metrics of fidelity and diversity: improved precision and recall, density and coverage.

The manifold of each set is approximated by balls around its images, with radius to the k-th nearest neighbour in the
same set.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from diffusion_lab.evaluation.metrics.arrays import Array, checked_pair
from diffusion_lab.evaluation.metrics.estimate import Estimate, normal_estimate, proportion_estimate
from diffusion_lab.evaluation.metrics.neighbours import TIE, distance_blocks, neighbours, squared_radii
from diffusion_lab.runtime.seeds import derive_seed

GROUPS = 20
JACKKNIFE_METHOD = (
    "normal interval by the jackknife over 20 groups of samples, with the reference as given; at least as wide as "
    "Wilson's score interval over the reference images"
)


class PrecisionRecall(NamedTuple):
    """Fraction of samples in the manifold of the reference, and of reference images in that of the samples."""

    precision: Estimate
    recall: Estimate


class DensityCoverage(NamedTuple):
    """Mean number of reference balls that contain a sample, over k, and fraction of balls that contain a sample."""

    density: Estimate
    coverage: Estimate


def precision_recall(
    samples: Tensor, reference: Tensor, *, k: int = 3, reference_radii: Array | None = None
) -> PrecisionRecall:
    """Return improved precision and recall (arXiv:1904.06991), with closed balls, as published.

    Args:
        samples: Features ``(N, D)``, N greater than k.
        reference: Features ``(M, D)``, M greater than k.
        k: Number of the nearest neighbour that determines the radius of a ball.
        reference_radii: ``squared_radii(reference, k)`` if already computed.

    Raises:
        ValueError: There are too few images, the numbers of features differ, or features are not finite.
    """
    samples, reference = _checked(samples, reference, k)
    groups = group_numbers(len(samples))
    distances, indices = neighbours(samples, min(len(samples) - 1, 3 * k + 5))
    radii = distances[:, k - 1] * (1 + TIE)
    reference_radii = (squared_radii(reference, k) if reference_radii is None else reference_radii) * (1 + TIE)
    # If a group is left out, balls of other samples grow where it contained neighbours.
    radii_without = [_radii_without(distances, groups[indices] == group, k) * (1 + TIE) for group in range(GROUPS)]
    precise, recalled = 0, np.zeros((GROUPS, len(reference)), dtype=bool)
    regained = np.zeros_like(recalled)
    for start, block in distance_blocks(samples, reference):
        rows, row_groups = slice(start, start + len(block)), groups[start : start + len(block)]
        precise += int((block <= reference_radii).any(axis=1).sum())
        inside = block <= radii[rows, None]
        for group in range(GROUPS):
            recalled[group] |= inside[row_groups == group].any(axis=0)
            grown = (radii_without[group][rows] > radii[rows]) & (row_groups != group)
            regained[group] |= (block[grown] <= radii_without[group][rows][grown, None]).any(axis=0)
    return PrecisionRecall(
        proportion_estimate(precise, len(samples), "samples, with the reference as given"),
        _covered_fraction(recalled, regained),
    )


def density_coverage(
    samples: Tensor, reference: Tensor, *, k: int = 5, reference_radii: Array | None = None
) -> DensityCoverage:
    """Return density and coverage (arXiv:2002.09797), with open balls, as in the published code.

    One exception: if images repeat and a ball has radius 0, its centre counts as inside. Density is about 1 for
    samples distributed as the reference, and has no upper bound. Coverage depends on N and M: its null row shows what
    can be reached.

    Args:
        samples: Features ``(N, D)``, N greater than k.
        reference: Features ``(M, D)``, M greater than k.
        k: Number of the nearest neighbour that determines the radius of a ball.
        reference_radii: ``squared_radii(reference, k)`` if already computed.

    Raises:
        ValueError: There are too few images, the numbers of features differ, or features are not finite.
    """
    samples, reference = _checked(samples, reference, k)
    groups = group_numbers(len(samples))
    radii = (squared_radii(reference, k) if reference_radii is None else reference_radii) * (1 - TIE)
    counts, covered = np.empty(len(samples)), np.zeros((GROUPS, len(reference)), dtype=bool)
    for start, block in distance_blocks(samples, reference):
        inside = (block < radii) | (block == 0)
        counts[start : start + len(block)] = inside.sum(axis=1)
        for group in range(GROUPS):
            covered[group] |= inside[groups[start : start + len(block)] == group].any(axis=0)
    error = float(counts.std(ddof=1)) / k / math.sqrt(len(counts))
    method = "normal interval over the samples, with the reference as given"
    return DensityCoverage(
        normal_estimate(float(counts.mean()) / k, error, method, low=0.0),
        _covered_fraction(covered, np.zeros_like(covered)),
    )


def group_numbers(count: int) -> NDArray[np.int64]:
    """Return a random group, 0 to 19, for each of ``count`` samples ``(N,)``, all groups equally large."""
    order = np.random.default_rng(derive_seed("groups of samples")).permutation(count)
    return order.astype(np.int64) % GROUPS


def _radii_without(distances: Array, excluded: NDArray[np.bool_], k: int) -> Array:
    """Return the squared distance to the k-th nearest neighbour that is not excluded, at most to the last known one.

    Args:
        distances: Squared distances to the nearest neighbours ``(N, count)``, in ascending order.
        excluded: Whether each of these neighbours is excluded ``(N, count)``.
        k: Number of the neighbour.
    """
    columns = np.argsort(excluded, axis=1, kind="stable")[:, k - 1]
    radii: Array = distances[np.arange(len(distances)), columns]
    return radii


def _covered_fraction(covered: NDArray[np.bool_], regained: NDArray[np.bool_]) -> Estimate:
    """Return the fraction of reference images that are covered by any group of samples, with a jackknife interval.

    Args:
        covered: Whether each group covers each reference image ``(groups, M)``.
        regained: Whether the other groups cover an image in addition if the group is left out ``(groups, M)``.
    """
    times = covered.sum(axis=0)
    without = np.array([((times > own) | more).mean() for own, more in zip(covered.astype(int), regained, strict=True)])
    error = math.sqrt((GROUPS - 1) / GROUPS * float(np.square(without - without.mean()).sum()))
    wilson = proportion_estimate(int((times > 0).sum()), covered.shape[1], "reference images")
    normal = normal_estimate(wilson.value, error, "", low=0.0, high=1.0)
    ends = [end for estimate in (wilson, normal) for end in (estimate.low, estimate.high) if end is not None]
    return Estimate(wilson.value, min(ends), max(ends), max(error, wilson.standard_error or 0.0), JACKKNIFE_METHOD)


def _checked(samples: Tensor, reference: Tensor, k: int) -> tuple[Tensor, Tensor]:
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    return checked_pair(samples, reference, min_images=k + 1)
