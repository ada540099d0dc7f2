"""The real images of a measurement, with what is computed from them once for all sets of samples."""

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
from diffusion_lab.seeds import derive_seed

MOST_NEIGHBOURS = 5


@dataclass(frozen=True, eq=False)
class RealImages:
    """Features of real images. Where many sets of samples are measured, give the same object to each measurement.

    Args:
        reference: What samples are compared with.
        held_out: Other real images from the same source, neither in ``reference`` nor trained on.
        train: The images that the model was trained on, where those are not ``reference``.
        seed: Of subsets, halves and the classifier.
        seen: The images that the model was trained on, where ``reference`` comes from elsewhere: for memorization
            alone.

    Classes are numbered as ``class_names``; labels of other classes become -1.
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
                object.__setattr__(self, name, numbered_as(images, self.class_names)[0])

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes by their numbers: those of the reference, without any those of the training images."""
        return self.reference.class_names or self.training_images.class_names

    @property
    def training_images(self) -> FeatureSet:
        """What the classifier learns from."""
        return self.reference if self.train is None else self.train

    @property
    def unseen_images(self) -> FeatureSet | None:
        """Real images that the model was not trained on."""
        return self.held_out if self.held_out is not None or self.train is None else self.reference

    @property
    def seen_images(self) -> FeatureSet:
        """What may have been memorized."""
        return self.training_images if self.seen is None else self.seen

    @cached_property
    def new_images(self) -> FeatureSet | None:
        """Real images that memorization is judged by; None without any that the model was not trained on."""
        if self.seen is None:
            return self.unseen_images
        others = self.reference if self.held_out is None else self.held_out
        return None if _are_all_in(others.values, self.seen.values) else others

    @cached_property
    def normal(self) -> FittedNormal:
        """The normal distribution fitted to the reference."""
        return FittedNormal.fit(self.reference.values)

    @cached_property
    def _near(self) -> Array:
        return neighbours(self.reference.values, MOST_NEIGHBOURS)[0]

    def radii(self, k: int) -> Array:
        """Return the squared distance of each reference image to its k-th nearest other ``(M,)``, k up to 5."""
        return self._near[:, k - 1]

    def kernel_sums(self, count: int) -> KernelSums:
        """Return the reference's part of kernel distances of ``count`` samples."""
        size = min(count, len(self.reference), SUBSET_SIZE)
        if size not in self._kernel_sums:
            self._kernel_sums[size] = KernelSums.from_features(self.reference.values, SUBSETS, size, self.seed)
        return self._kernel_sums[size]

    @cached_property
    def _kernel_sums(self) -> dict[int, KernelSums]:
        return {}

    @cached_property
    def classifier(self) -> LabelClassifier:
        """A classifier fitted to the training images; its accuracy is that on the unseen ones that have labels."""
        train, unseen = labelled(self.training_images), labelled(self.unseen_images)
        assert train is not None  # asked for by the caller
        assert train.labels is not None
        held_out = None if unseen is None or unseen.labels is None else (unseen.values, unseen.labels)
        return LabelClassifier.fit(train.values, train.labels, held_out=held_out, seed=self.seed)

    def nearest(self, samples: FeatureSet) -> Nearest:
        """Return the image nearest to each sample among those that may have been memorized, cached with the samples."""
        if samples not in self._nearest:
            self._nearest[samples] = Nearest.find(samples.values, self.seen_images.values)
        return self._nearest[samples]

    @cached_property
    def _nearest(self) -> WeakKeyDictionary[FeatureSet, Nearest]:
        return WeakKeyDictionary()

    @cached_property
    def unseen(self) -> UnseenDistances:
        """How near new images lie to those that may have been memorized."""
        new = self.new_images
        return UnseenDistances.measure(self.seen_images.values, None if new is None else new.values)


def _are_all_in(images: Tensor, others: Tensor) -> bool:
    """Whether the features of each image are exactly those of one of the others."""
    known = {hash(row.tobytes()) for row in others.numpy()}
    return all(hash(row.tobytes()) in known for row in images.numpy())


def labelled(images: FeatureSet | None) -> FeatureSet | None:
    """Return the images of known classes; None where there are none."""
    if images is None or images.labels is None or not bool((images.labels >= 0).any()):
        return None
    return images.subset((images.labels >= 0).nonzero().flatten())


def some_of(images: FeatureSet, count: int, seed: int, purpose: str) -> FeatureSet:
    """Return ``count`` images chosen at random, in their order; all of them where there are no more."""
    if count >= len(images):
        return images
    generator = np.random.default_rng(derive_seed(purpose, seed))
    return images.subset(torch.from_numpy(np.sort(generator.choice(len(images), count, replace=False))))


def halves(images: FeatureSet, seed: int) -> tuple[FeatureSet, FeatureSet]:
    """Return two disjoint halves, chosen at random."""
    order = np.random.default_rng(derive_seed("halves of real images", seed)).permutation(len(images))
    middle = len(images) // 2
    first, second = (torch.from_numpy(np.sort(part)) for part in (order[:middle], order[middle:]))
    return images.subset(first), images.subset(second)


def numbered_as(images: FeatureSet, class_names: tuple[str, ...]) -> tuple[FeatureSet, tuple[str, ...]]:
    """Return the images with their classes numbered by ``class_names``, and the names that are not among these.

    Labels of other classes become -1. Where there are no names to number by, nothing changes.
    """
    if images.labels is None or not class_names or images.class_names == class_names:
        return images, ()
    places = {name: number for number, name in enumerate(class_names)}
    numbers = torch.tensor([places.get(name, -1) for name in images.class_names], dtype=torch.long)
    labels = numbers[images.labels]
    present = {images.class_names[number] for number in images.labels.unique().tolist()}
    unknown = tuple(sorted(present - set(class_names)))
    return replace(images, labels=labels, class_names=class_names), unknown
