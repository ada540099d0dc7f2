"""Fidelity and variety apart: improved precision and recall, density and coverage.

Each set is described by balls around its images that reach to the k-th nearest neighbour in the same set.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from diffusion_lab.evaluation.metrics.arrays import Array, checked_pair
from diffusion_lab.evaluation.metrics.estimate import Estimate, normal_estimate, share_estimate
from diffusion_lab.evaluation.metrics.neighbours import TIE, distance_blocks, neighbours, squared_radii
from diffusion_lab.runtime.seeds import derive_seed

GROUPS = 20
SHARE_OF_REFERENCE = (
    "normal interval by the jackknife over 20 groups of samples, with the reference as given; at least as wide as "
    "Wilson's score interval over the reference images"
)


class PrecisionRecall(NamedTuple):
    """Share of samples inside the reference, and share of the reference inside the samples."""

    precision: Estimate
    recall: Estimate


class DensityCoverage(NamedTuple):
    """Mean number of balls of the reference around a sample, over k, and share of balls that hold a sample."""

    density: Estimate
    coverage: Estimate


def precision_recall(
    samples: Tensor, reference: Tensor, *, k: int = 3, reference_radii: Array | None = None
) -> PrecisionRecall:
    """Return improved precision and recall (arXiv:1904.06991), with balls that include their surface, as published.

    Args:
        samples: Features ``(N, D)``, N greater than k.
        reference: Features ``(M, D)``, M greater than k.
        k: Which nearest neighbour the balls reach to.
        reference_radii: ``squared_radii(reference, k)`` where they are known already.

    Raises:
        ValueError: There are too few images, or features that do not fit together or are not finite.
    """
    samples, reference = _checked(samples, reference, k)
    groups = group_numbers(len(samples))
    found, who = neighbours(samples, min(len(samples) - 1, 3 * k + 5))
    here = found[:, k - 1] * (1 + TIE)
    there = (squared_radii(reference, k) if reference_radii is None else reference_radii) * (1 + TIE)
    wider = [_radii_without(found, groups[who] == group, k) * (1 + TIE) for group in range(GROUPS)]
    precise, recalled = 0, np.zeros((GROUPS, len(reference)), dtype=bool)
    regained = np.zeros_like(recalled)
    for start, block in distance_blocks(samples, reference):
        mine, own = slice(start, start + len(block)), groups[start : start + len(block)]
        precise += int((block <= there).any(axis=1).sum())
        inside = block <= here[mine, None]
        for group in range(GROUPS):
            recalled[group] |= inside[own == group].any(axis=0)
            grown = (wider[group][mine] > here[mine]) & (own != group)
            regained[group] |= (block[grown] <= wider[group][mine][grown, None]).any(axis=0)
    return PrecisionRecall(
        share_estimate(precise, len(samples), "samples, with the reference as given"),
        _share_of_reference(recalled, regained),
    )


def density_coverage(
    samples: Tensor, reference: Tensor, *, k: int = 5, reference_radii: Array | None = None
) -> DensityCoverage:
    """Return density and coverage (arXiv:2002.09797), with balls without their surface, as in the published code.

    One exception: where images repeat and a ball has radius 0, its very centre counts as inside. Density is about 1
    where samples are distributed as the reference, and has no upper limit. Coverage depends on N and M: its null row
    says what can be reached.

    Args:
        samples: Features ``(N, D)``, N greater than k.
        reference: Features ``(M, D)``, M greater than k.
        k: Which nearest neighbour the balls reach to.
        reference_radii: ``squared_radii(reference, k)`` where they are known already.

    Raises:
        ValueError: There are too few images, or features that do not fit together or are not finite.
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
        _share_of_reference(covered, np.zeros_like(covered)),
    )


def group_numbers(count: int) -> NDArray[np.int64]:
    """Return the group 0 to 19 of each of ``count`` samples ``(N,)``, in an order that no labels follow."""
    order = np.random.default_rng(derive_seed("groups of samples")).permutation(count)
    return order.astype(np.int64) % GROUPS


def _radii_without(found: Array, left_out: NDArray[np.bool_], k: int) -> Array:
    """Squared distance to the k-th nearest of those neighbours that are not left out, at most to the last known."""
    place = np.argsort(left_out, axis=1, kind="stable")[:, k - 1]
    radii: Array = found[np.arange(len(found)), place]
    return radii


def _share_of_reference(reached: NDArray[np.bool_], regained: NDArray[np.bool_]) -> Estimate:
    """Share of reference images that any group of samples reaches, with an interval by leaving out each group.

    Args:
        reached: Which images each group reaches ``(groups, M)``.
        regained: Which the others reach in addition where the group is left out.
    """
    times = reached.sum(axis=0)
    without = np.array([((times > own) | more).mean() for own, more in zip(reached.astype(int), regained, strict=True)])
    error = math.sqrt((GROUPS - 1) / GROUPS * float(np.square(without - without.mean()).sum()))
    wilson = share_estimate(int((times > 0).sum()), reached.shape[1], "reference images")
    normal = normal_estimate(wilson.value, error, "", low=0.0, high=1.0)
    ends = [end for estimate in (wilson, normal) for end in (estimate.low, estimate.high) if end is not None]
    return Estimate(wilson.value, min(ends), max(ends), max(error, wilson.standard_error or 0.0), SHARE_OF_REFERENCE)


def _checked(samples: Tensor, reference: Tensor, k: int) -> tuple[Tensor, Tensor]:
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    return checked_pair(samples, reference, least=k + 1)
