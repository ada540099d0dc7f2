"""Label agreement: accuracy of a classifier of real images on samples, with their conditioning labels as targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import Tensor

from diffusion_lab.evaluation.metrics.arrays import checked_features, chunks
from diffusion_lab.evaluation.metrics.estimate import Estimate, proportion_estimate
from diffusion_lab.runtime.seeds import derive_seed

MAX_TRAINING_IMAGES = 20_000
HELD_OUT_FRACTION = 5
"""One image in five of each class is held out from the classifier if there are no held-out images."""


@dataclass(frozen=True)
class Agreement:
    """Fraction of images whose predicted class is their label, overall and by class number.

    Classes without images are absent from ``classes``.
    """

    overall: Estimate
    classes: Mapping[int, Estimate] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class LabelClassifier:
    """Logistic regression on standardized features of real images.

    Args:
        pipeline: The fitted scikit-learn pipeline.
        held_out: Its agreement with the labels of real images that it was not fitted to: an upper bound to be expected
            for samples.
        trained_on: Number of images that it was fitted to.
    """

    pipeline: Pipeline
    held_out: Agreement
    trained_on: int

    @property
    def held_out_accuracy(self) -> Estimate:
        """Fraction of held-out real images that are classified correctly."""
        return self.held_out.overall

    @classmethod
    def fit(
        cls,
        features: Tensor,
        labels: Tensor,
        *,
        held_out: tuple[Tensor, Tensor] | None = None,
        seed: int = 0,
    ) -> LabelClassifier:
        """Fit to real images.

        Args:
            features: ``(N, D)``.
            labels: Class numbers ``(N,)``, of at least two classes.
            held_out: Features and labels of other real images, for its accuracy. Without them, a fifth of each class
                with at least five images is held out.
            seed: Seed of the choice of held-out images, and of the training images if there are more than 20,000.

        Raises:
            ValueError: There is only one class, or there are too few images to hold any out.
        """
        features, numbers = _checked(features, labels, "features")
        generator = np.random.default_rng(derive_seed("label classifier", seed))
        order = generator.permutation(len(features))
        if held_out is None:
            indices = _one_in_five_of_each_class(numbers, order)
            if not len(indices):
                raise ValueError(
                    f"features must contain a class of at least {HELD_OUT_FRACTION} images, so that some can be held "
                    "out to evaluate the classifier: give more images, or held_out"
                )
            held_out = features[torch.from_numpy(indices)], torch.from_numpy(numbers[indices])
            order = order[~np.isin(order, indices)]
        chosen = np.sort(_each_class_first(numbers, order)[:MAX_TRAINING_IMAGES])
        if len(np.unique(numbers[chosen])) < 2:
            raise ValueError(f"labels must be of at least two classes, got {len(np.unique(numbers))}")
        pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        with threadpool_limits(1):  # bitwise equal for any number of threads
            pipeline.fit(features[torch.from_numpy(chosen)].double().numpy(), numbers[chosen])
        return cls(pipeline, _agreement(pipeline, *held_out, "held_out"), len(chosen))

    @property
    def known(self) -> frozenset[int]:
        """Class numbers that it was fitted to."""
        return frozenset(int(number) for number in self.pipeline.classes_)

    def agreement(self, features: Tensor, labels: Tensor) -> Agreement:
        """Return the fraction of images that are classified as their label, with Wilson's intervals.

        Args:
            features: ``(N, D)``, N at least 1.
            labels: Conditioning class numbers ``(N,)``; those unknown to the classifier count as wrong.

        Raises:
            ValueError: The features are not finite, or there is not one label per image.
        """
        return _agreement(self.pipeline, features, labels, "features")


def _agreement(pipeline: Pipeline, features: Tensor, labels: Tensor, name: str) -> Agreement:
    features, numbers = _checked(features, labels, name)
    with threadpool_limits(1):
        correct = np.concatenate([pipeline.predict(rows) for _, rows in chunks(features)]) == numbers

    def estimate(part: NDArray[np.bool_]) -> Estimate:
        return proportion_estimate(int(part.sum()), len(part), "images, with the classifier as given")

    classes = {int(number): estimate(correct[numbers == number]) for number in np.unique(numbers)}
    return Agreement(estimate(correct), classes)


def _one_in_five_of_each_class(numbers: NDArray[np.int64], order: NDArray[np.int64]) -> NDArray[np.int64]:
    held_out = []
    for number in np.unique(numbers):
        indices = order[numbers[order] == number]
        held_out.append(indices[: len(indices) // HELD_OUT_FRACTION])
    return np.sort(np.concatenate(held_out))


def _each_class_first(numbers: NDArray[np.int64], order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the order with the first image of each class moved to the front, so that a prefix has every class."""
    first = np.sort(np.unique(numbers[order], return_index=True)[1])
    return np.concatenate([order[first], np.delete(order, first)])


def _checked(features: Tensor, labels: Tensor, name: str) -> tuple[Tensor, NDArray[np.int64]]:
    features = checked_features(features, name)
    if labels.shape != (len(features),) or labels.is_floating_point():
        raise ValueError(
            f"labels must be integers ({len(features)},), one per image, got {labels.dtype} {tuple(labels.shape)}"
        )
    return features, labels.detach().cpu().long().numpy()
