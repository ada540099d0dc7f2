"""Memorization: are samples nearer to training images than unseen real images are?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from diffusion_lab.evaluation.metrics.arrays import Array, check_widths, checked_features
from diffusion_lab.evaluation.metrics.estimate import Estimate, normal_estimate, share_estimate
from diffusion_lab.evaluation.metrics.neighbours import Indices, nearest

PAIRS = 10
HELD_OUT = "held-out images"
LEAVE_ONE_OUT = "each training image against the others"


@dataclass(frozen=True)
class NearestPair:
    """A sample and the training image nearest to it, by number, and their distance in features."""

    sample: int
    train: int
    distance: float


@dataclass(frozen=True, eq=False)
class UnseenDistances:
    """How near real images lie to training images that they are not.

    Args:
        distances: To the nearest training image, in ascending order, without the copies.
        copies: How many real images have the features of a training image; they say nothing of unseen ones.
        source: What was compared with the training images.
    """

    distances: Array
    copies: int
    source: str

    @classmethod
    def of(cls, train: Tensor, held_out: Tensor | None) -> UnseenDistances:
        """Measure held-out images against the training images; without any, each training image against the others."""
        if held_out is None:
            found, source = nearest(train, train, itself=False)[1], LEAVE_ONE_OUT
        else:
            found, source = nearest(held_out, train)[1], HELD_OUT
        return cls(np.sort(found[found > 0]), int((found == 0).sum()), source)


@dataclass(frozen=True)
class Memorization:
    """How many samples lie nearer to a training image than any unseen real image does.

    Args:
        share: Share of samples that are nearer than ``threshold``; images that are unseen have an expected share of
            ``expected_share``.
        expected_share: 1 / (number of unseen real images + 1).
        nearer: Probability that a sample is nearer to its training image than an unseen real image is to its own:
            0.5 for unseen images, 1 where every sample is nearer. It sees what the threshold misses where one unseen
            image happens to lie very near.
        threshold: Smallest distance of an unseen real image; 0 where all of them are copies.
        copies: Samples whose features equal those of a training image exactly.
        unseen_copies: Real images that were left out of the comparison since they are such copies.
        compared_with: Where the unseen real images came from.
        pairs: The ten nearest pairs, nearest first.
    """

    share: Estimate
    expected_share: float
    nearer: Estimate
    threshold: float
    copies: int
    unseen_copies: int
    compared_with: str
    pairs: tuple[NearestPair, ...]


@dataclass(frozen=True, eq=False)
class Nearest:
    """The training image nearest to each sample ``(N,)``, by number, and its distance ``(N,)``."""

    train: Indices
    distances: Array

    @classmethod
    def of(cls, samples: Tensor, train: Tensor) -> Nearest:
        """Find them."""
        samples, train = checked_features(samples, "samples"), checked_features(train, "train", least=2)
        check_widths(samples.shape[1], train.shape[1], "samples and train")
        return cls(*nearest(samples, train))

    def some(self, chosen: NDArray[np.bool_]) -> Nearest:
        """Return those of the samples that are True in ``chosen`` ``(N,)``."""
        return Nearest(self.train[chosen], self.distances[chosen])


def memorization(samples: Tensor, train: Tensor, held_out: Tensor | None = None) -> Memorization:
    """Compare the distance of each sample to its nearest training image with that of unseen real images.

    Real images that are copies of training images are left out, and counted. Without held-out images each training
    image is compared with the others: what lies nearer than that is nearer than any two training images.

    Args:
        samples: Features ``(N, D)``.
        train: Features of the training images ``(T, D)``, T at least 2.
        held_out: Features ``(H, D)`` of real images that were not trained on.

    Raises:
        ValueError: There are too few images, or features that do not fit together or are not finite.
    """
    near = Nearest.of(samples, train)
    if held_out is not None:
        held_out = checked_features(held_out, "held_out")
        check_widths(held_out.shape[1], train.shape[1], "held_out and train")
    return judge(near, UnseenDistances.of(train, held_out))


def judge(near: Nearest, unseen: UnseenDistances) -> Memorization:
    """Compare distances that are known already."""
    distances = near.distances
    threshold = float(unseen.distances[0]) if len(unseen.distances) else 0.0
    order = np.argsort(distances, kind="stable")[:PAIRS]
    return Memorization(
        share=share_estimate(
            int((distances < threshold).sum()), len(distances), "samples, with the threshold as given"
        ),
        expected_share=1 / (len(unseen.distances) + 1),
        nearer=_nearer(distances, unseen.distances),
        threshold=threshold,
        copies=int((distances == 0).sum()),
        unseen_copies=unseen.copies,
        compared_with=unseen.source,
        pairs=tuple(NearestPair(int(i), int(near.train[i]), float(distances[i])) for i in order),
    )


def _nearer(distances: Array, unseen: Array) -> Estimate:
    """Probability that a sample is nearer than an unseen image, ties by half; 0.5 without unseen images."""
    if not len(unseen):
        return Estimate(0.5, method="no unseen image to compare with")
    above = len(unseen) - np.searchsorted(unseen, distances, side="right")
    ties = np.searchsorted(unseen, distances, side="right") - np.searchsorted(unseen, distances, side="left")
    shares = (above + ties / 2) / len(unseen)
    error = float(shares.std(ddof=1)) / math.sqrt(len(shares)) if len(shares) > 1 else 0.5
    method = "normal interval over the samples, with the unseen images as given"
    return normal_estimate(float(shares.mean()), error, method, low=0.0, high=1.0)
