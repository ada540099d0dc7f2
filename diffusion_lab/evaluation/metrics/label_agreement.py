"""Label agreement: how often a classifier that learned from real images takes a sample for what was asked for."""

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
from diffusion_lab.evaluation.metrics.estimate import Estimate, share_estimate
from diffusion_lab.runtime.seeds import derive_seed

MOST_TRAINING_IMAGES = 20_000
HELD_OUT_FRACTION = 5
"""One image in five of each class is kept from the classifier where there are no held-out images."""


@dataclass(frozen=True)
class Agreement:
    """Share of images whose predicted class is their label, of all and of each class number.

    Classes without images are absent from ``classes``.
    """

    overall: Estimate
    classes: Mapping[int, Estimate] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class LabelClassifier:
    """Logistic regression on standardized features of real images.

    Args:
        pipeline: The fitted scikit-learn pipeline.
        held_out: Its agreement with the labels of real images that it was not fitted to: no samples can be expected
            to reach more.
        trained_on: How many images it was fitted to.
    """

    pipeline: Pipeline
    held_out: Agreement
    trained_on: int

    @property
    def held_out_accuracy(self) -> Estimate:
        """Share of held-out real images that it classifies correctly."""
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
            held_out: Features and labels of other real images, for its accuracy. Without them a fifth of each class
                (of classes with at least five images) is kept from the fit.
            seed: Which images are kept, and which are taken of more than 20,000.

        Raises:
            ValueError: There is one class alone, or there are too few images to keep any.
        """
        features, numbers = _checked(features, labels, "features")
        generator = np.random.default_rng(derive_seed("label classifier", seed))
        order = generator.permutation(len(features))
        if held_out is None:
            kept = _one_in_five_of_each_class(numbers, order)
            if not len(kept):
                raise ValueError(
                    f"features must hold a class of at least {HELD_OUT_FRACTION} images, so that some can be kept to "
                    "measure the classifier: give more images, or held_out"
                )
            held_out = features[torch.from_numpy(kept)], torch.from_numpy(numbers[kept])
            order = order[~np.isin(order, kept)]
        chosen = np.sort(_each_class_first(numbers, order)[:MOST_TRAINING_IMAGES])
        if len(np.unique(numbers[chosen])) < 2:
            raise ValueError(f"labels must be of at least two classes, got {len(np.unique(numbers))}")
        pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        with threadpool_limits(1):  # the same bits for any number of threads
            pipeline.fit(features[torch.from_numpy(chosen)].double().numpy(), numbers[chosen])
        return cls(pipeline, _agreement(pipeline, *held_out, "held_out"), len(chosen))

    @property
    def known(self) -> frozenset[int]:
        """The class numbers that it was fitted to."""
        return frozenset(int(number) for number in self.pipeline.classes_)

    def agreement(self, features: Tensor, labels: Tensor) -> Agreement:
        """Return the share of images that are classified as their label, with Wilson's intervals.

        Args:
            features: ``(N, D)``, N at least 1.
            labels: The class numbers asked for ``(N,)``; those that the classifier does not know count as wrong.

        Raises:
            ValueError: The features are not finite, or the labels are not one an image.
        """
        return _agreement(self.pipeline, features, labels, "features")


def _agreement(pipeline: Pipeline, features: Tensor, labels: Tensor, name: str) -> Agreement:
    features, numbers = _checked(features, labels, name)
    with threadpool_limits(1):
        right = np.concatenate([pipeline.predict(rows) for _, rows in chunks(features)]) == numbers
    of = "images, with the classifier as given"
    return Agreement(
        share_estimate(int(right.sum()), len(right), of),
        {
            int(number): share_estimate(int(right[numbers == number].sum()), int((numbers == number).sum()), of)
            for number in np.unique(numbers)
        },
    )


def _one_in_five_of_each_class(numbers: NDArray[np.int64], order: NDArray[np.int64]) -> NDArray[np.int64]:
    kept = []
    for number in np.unique(numbers):
        mine = order[numbers[order] == number]
        kept.append(mine[: len(mine) // HELD_OUT_FRACTION])
    return np.sort(np.concatenate(kept))


def _each_class_first(numbers: NDArray[np.int64], order: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same order with the first image of each class before all others: none is lost where few are taken."""
    first = np.sort(np.unique(numbers[order], return_index=True)[1])
    return np.concatenate([order[first], np.delete(order, first)])


def _checked(features: Tensor, labels: Tensor, name: str) -> tuple[Tensor, NDArray[np.int64]]:
    features = checked_features(features, name)
    if labels.shape != (len(features),) or labels.is_floating_point():
        raise ValueError(
            f"labels must be whole numbers ({len(features)},), one an image, got {labels.dtype} {tuple(labels.shape)}"
        )
    return features, labels.detach().cpu().long().numpy()
