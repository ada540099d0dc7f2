"""Real images of a measurement, with the quantities computed from them once for all sets of samples."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from diffusion_lab.evaluation.metrics.arrays import Array
from diffusion_lab.evaluation.metrics.frechet import FittedNormal
from diffusion_lab.evaluation.metrics.kernel import SUBSET_SIZE, SUBSETS, KernelSums
from diffusion_lab.evaluation.metrics.label_agreement import LabelClassifier
from diffusion_lab.evaluation.metrics.memorization import Nearest, UnseenDistances
from diffusion_lab.evaluation.metrics.neighbours import neighbours
from diffusion_lab.features.feature_set import FeatureSet
from diffusion_lab.runtime.seeds import derive_seed

MAX_NEIGHBOURS = 5


@dataclass(frozen=True, eq=False)
class RealImages:
    """Features of real images. To measure many sets of samples, pass the same object to each measurement.

    Args:
        reference: Images that samples are compared with.
        held_out: Other real images from the same source, neither in ``reference`` nor trained on.
        train: Images that the model was trained on, if those are not ``reference``.
        seed: Seed of subsets, halves and the classifier.
        seen: Images that the model was trained on, if ``reference`` is from another source; used for memorization
            only.

    Classes are numbered as in ``class_names``; labels of other classes become -1.
    """

    reference: FeatureSet
    held_out: FeatureSet | None = None
    train: FeatureSet | None = None
    seed: int = 0
    seen: FeatureSet | None = None

    def __post_init__(self) -> None:
        if self.held_out is not None and not len(self.held_out):
            object.__setattr__(self, "held_out", None)
        for name in ("held_out", "train"):
            images: FeatureSet | None = getattr(self, name)
            if images is not None:
                object.__setattr__(self, name, renumber_classes(images, self.class_names)[0])

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes by number: those of the reference, or if it has none, of the training images."""
        return self.reference.class_names or self.training_images.class_names

    @property
    def training_images(self) -> FeatureSet:
        """Images that the classifier is fitted to."""
        return self.reference if self.train is None else self.train

    @property
    def unseen_images(self) -> FeatureSet | None:
        """Real images that the model was not trained on."""
        return self.held_out if self.held_out is not None or self.train is None else self.reference

    @property
    def seen_images(self) -> FeatureSet:
        """Images that may have been memorized."""
        return self.training_images if self.seen is None else self.seen

    @cached_property
    def memorization_baseline(self) -> FeatureSet | None:
        """Unseen real images that samples are compared with for memorization; None if there are none."""
        if self.seen is None:
            return self.unseen_images
        others = self.reference if self.held_out is None else self.held_out
        return None if _are_all_in(others.values, self.seen.values) else others

    @cached_property
    def normal(self) -> FittedNormal:
        """Normal distribution fitted to the reference."""
        return FittedNormal.fit(self.reference.values)

    @cached_property
    def _neighbour_distances(self) -> Array:
        return neighbours(self.reference.values, MAX_NEIGHBOURS)[0]

    def radii(self, k: int) -> Array:
        """Return the squared distance of each reference image to its k-th nearest other ``(M,)``, k up to 5."""
        return self._neighbour_distances[:, k - 1]

    def kernel_sums(self, count: int) -> KernelSums:
        """Return the part of the kernel distance of ``count`` samples that depends on the reference alone."""
        size = min(count, len(self.reference), SUBSET_SIZE)
        if size not in self._kernel_sums:
            self._kernel_sums[size] = KernelSums.from_features(self.reference.values, SUBSETS, size, self.seed)
        return self._kernel_sums[size]

    @cached_property
    def _kernel_sums(self) -> dict[int, KernelSums]:
        return {}

    @cached_property
    def classifier(self) -> LabelClassifier:
        """Classifier fitted to the training images, with its accuracy on the labelled unseen images."""
        train, unseen = labelled_subset(self.training_images), labelled_subset(self.unseen_images)
        assert train is not None  # checked by the caller
        assert train.labels is not None
        held_out = None if unseen is None or unseen.labels is None else (unseen.values, unseen.labels)
        return LabelClassifier.fit(train.values, train.labels, held_out=held_out, seed=self.seed)

    def nearest(self, samples: FeatureSet) -> Nearest:
        """Return the nearest of the images that may have been memorized for each sample, cached with the samples."""
        if samples not in self._nearest:
            self._nearest[samples] = Nearest.find(samples.values, self.seen_images.values)
        return self._nearest[samples]

    @cached_property
    def _nearest(self) -> WeakKeyDictionary[FeatureSet, Nearest]:
        return WeakKeyDictionary()

    @cached_property
    def unseen(self) -> UnseenDistances:
        """Distances of unseen images to those that may have been memorized."""
        baseline = self.memorization_baseline
        return UnseenDistances.measure(self.seen_images.values, None if baseline is None else baseline.values)


def _are_all_in(images: Tensor, others: Tensor) -> bool:
    """Return whether the features of each image exactly equal those of one of the others."""
    known = {hash(row.tobytes()) for row in others.numpy()}
    return all(hash(row.tobytes()) in known for row in images.numpy())


def labelled_subset(images: FeatureSet | None) -> FeatureSet | None:
    """Return the images of known classes; None if there are none."""
    if images is None or images.labels is None or not bool((images.labels >= 0).any()):
        return None
    return images.subset((images.labels >= 0).nonzero().flatten())


def random_subset(images: FeatureSet, count: int, seed: int, purpose: str) -> FeatureSet:
    """Return ``count`` images chosen at random, in their original order; all of them if there are no more.

    Args:
        images: The images.
        count: Number of images to choose.
        seed: Seed of the choice.
        purpose: Use of the subset, which makes its choice independent of others with the same seed.
    """
    if count >= len(images):
        return images
    generator = np.random.default_rng(derive_seed(purpose, seed))
    return images.subset(torch.from_numpy(np.sort(generator.choice(len(images), count, replace=False))))


def random_halves(images: FeatureSet, seed: int) -> tuple[FeatureSet, FeatureSet]:
    """Return two disjoint halves, chosen at random."""
    order = np.random.default_rng(derive_seed("halves of real images", seed)).permutation(len(images))
    middle = len(images) // 2
    first, second = (torch.from_numpy(np.sort(part)) for part in (order[:middle], order[middle:]))
    return images.subset(first), images.subset(second)


def renumber_classes(images: FeatureSet, class_names: tuple[str, ...]) -> tuple[FeatureSet, tuple[str, ...]]:
    """Return the images with their classes numbered as in ``class_names``, and the names that are not among these.

    Labels of other classes become -1. Without any class names, nothing changes.
    """
    if images.labels is None or not class_names or images.class_names == class_names:
        return images, ()
    number_of = {name: number for number, name in enumerate(class_names)}
    numbers = torch.tensor([number_of.get(name, -1) for name in images.class_names], dtype=torch.long)
    labels = numbers[images.labels]
    present = {images.class_names[number] for number in images.labels.unique().tolist()}
    unknown = tuple(sorted(present - set(class_names)))
    return replace(images, labels=labels, class_names=class_names), unknown
