"""Memorization: whether samples are nearer to training images than unseen real images are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from diffusion_lab.evaluation.metrics.arrays import Array, check_widths, checked_features
from diffusion_lab.evaluation.metrics.estimate import Estimate, normal_estimate, proportion_estimate
from diffusion_lab.evaluation.metrics.neighbours import Indices, nearest

PAIRS = 10
HELD_OUT = "held-out images"
LEAVE_ONE_OUT = "each training image against the others"


@dataclass(frozen=True)
class NearestPair:
    """Sample and its nearest training image, by index, with their distance in feature space."""

    sample: int
    train: int
    distance: float


@dataclass(frozen=True, eq=False)
class UnseenDistances:
    """Distances of unseen real images to their nearest training image: the baseline for those of samples.

    Args:
        distances: Distances in ascending order, without those of copies.
        copies: Number of real images with the features of a training image, which are not unseen.
        source: Description of the images that were compared with the training images.
    """

    distances: Array
    copies: int
    source: str

    @classmethod
    def measure(cls, train: Tensor, held_out: Tensor | None) -> UnseenDistances:
        """Measure held-out images against the training images, or else each training image against the others."""
        if held_out is None:
            distances, source = nearest(train, train, same_set=True)[1], LEAVE_ONE_OUT
        else:
            distances, source = nearest(held_out, train)[1], HELD_OUT
        return cls(np.sort(distances[distances > 0]), int((distances == 0).sum()), source)


@dataclass(frozen=True)
class Memorization:
    """Proximity of samples to training images, compared with that of unseen real images.

    Args:
        share: Fraction of samples that are nearer to a training image than ``threshold``; its expected value for
            unseen images is ``expected_share``.
        expected_share: 1 / (number of unseen real images + 1).
        nearer: Probability that a sample is nearer to its training image than an unseen real image is to its own:
            0.5 for unseen images, 1 if every sample is nearer. It is robust to a single unseen image that happens to
            lie very near, which lowers the threshold.
        threshold: Smallest distance of an unseen real image; 0 if all of them are copies.
        copies: Number of samples with exactly the features of a training image.
        unseen_copies: Number of real images that were excluded because they are such copies.
        compared_with: Source of the unseen real images.
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
    """Nearest training image of each sample ``(N,)``, by index, and its distance ``(N,)``."""

    train: Indices
    distances: Array

    @classmethod
    def find(cls, samples: Tensor, train: Tensor) -> Nearest:
        """Find the nearest training images of samples, from the features of both."""
        samples, train = checked_features(samples, "samples"), checked_features(train, "train", min_images=2)
        check_widths(samples.shape[1], train.shape[1], "samples and train")
        return cls(*nearest(samples, train))

    def select(self, mask: NDArray[np.bool_]) -> Nearest:
        """Return those of the samples that are True in ``mask`` ``(N,)``."""
        return Nearest(self.train[mask], self.distances[mask])


def memorization(samples: Tensor, train: Tensor, held_out: Tensor | None = None) -> Memorization:
    """Compare the distance of each sample to its nearest training image with that of unseen real images.

    Real images that are copies of training images are excluded, and counted. Without held-out images, each training
    image is compared with the others: samples below that threshold are nearer than any two training images.

    Args:
        samples: Features ``(N, D)``.
        train: Features of the training images ``(T, D)``, T at least 2.
        held_out: Features ``(H, D)`` of real images that were not trained on.

    Raises:
        ValueError: There are too few images, the numbers of features differ, or features are not finite.
    """
    near = Nearest.find(samples, train)
    if held_out is not None:
        held_out = checked_features(held_out, "held_out")
        check_widths(held_out.shape[1], train.shape[1], "held_out and train")
    return compare_distances(near, UnseenDistances.measure(train, held_out))


def compare_distances(near: Nearest, unseen: UnseenDistances) -> Memorization:
    """Return the memorization from distances of samples and of unseen real images."""
    distances = near.distances
    threshold = float(unseen.distances[0]) if len(unseen.distances) else 0.0
    order = np.argsort(distances, kind="stable")[:PAIRS]
    return Memorization(
        share=proportion_estimate(
            int((distances < threshold).sum()), len(distances), "samples, with the threshold as given"
        ),
        expected_share=1 / (len(unseen.distances) + 1),
        nearer=_nearer_probability(distances, unseen.distances),
        threshold=threshold,
        copies=int((distances == 0).sum()),
        unseen_copies=unseen.copies,
        compared_with=unseen.source,
        pairs=tuple(NearestPair(int(i), int(near.train[i]), float(distances[i])) for i in order),
    )


def _nearer_probability(distances: Array, unseen: Array) -> Estimate:
    """Return the probability that a sample is nearer than an unseen image, counting ties half; 0.5 without any."""
    if not len(unseen):
        return Estimate(0.5, method="no unseen image to compare with")
    above = len(unseen) - np.searchsorted(unseen, distances, side="right")
    ties = np.searchsorted(unseen, distances, side="right") - np.searchsorted(unseen, distances, side="left")
    probabilities = (above + ties / 2) / len(unseen)
    error = float(probabilities.std(ddof=1)) / math.sqrt(len(probabilities)) if len(probabilities) > 1 else 0.5
    method = "normal interval over the samples, with the unseen images as given"
    return normal_estimate(float(probabilities.mean()), error, method, low=0.0, high=1.0)
