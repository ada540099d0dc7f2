"""The rows of a measurement: each metric of the samples, of real images in their place, and of each class."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from diffusion_lab.evaluation.families import (
    BETTER,
    FAMILIES,
    QUICK,
    Values,
    full_name,
    memorization_values,
    missing,
)
from diffusion_lab.evaluation.measurement import NullRow, Row
from diffusion_lab.evaluation.metrics import Estimate, Extrapolation, Memorization, frechet_distance_infinity
from diffusion_lab.evaluation.metrics.memorization import LEAVE_ONE_OUT, Nearest, judge
from diffusion_lab.evaluation.null_rows import LEAST_IMAGES, Null, null_of
from diffusion_lab.evaluation.real_images import RealImages, numbered_as, some_of
from diffusion_lab.features.feature_set import FeatureSet

WITHIN_CLASSES = ("fd", "kid", "precision_recall", "density_coverage")
"""Metrics that compare the samples of a class with the reference images of that class alone."""

NAMED = 5
"""How many classes a note names."""


class RowMaker:
    """Makes the rows of one set of samples, and keeps what is to be said about them.

    Args:
        real: The real images.
        samples: What is measured; its classes are numbered as those of the reference.
        thorough: Whether null rows, values for each class, FD∞ and the interval of the Fréchet distance are made.
    """

    def __init__(self, real: RealImages, samples: FeatureSet, thorough: bool) -> None:
        self.real, self.thorough = real, thorough
        self.samples, unknown = numbered_as(samples, real.reference.class_names)
        self.rows: list[Row] = []
        self.skipped: dict[str, str] = {}
        self.notes: list[str] = []
        self.memorization: Memorization | None = None
        self.classifier_accuracy: Estimate | None = None
        self._families = FAMILIES if thorough else QUICK
        self._classes = self._of_each_class() if thorough else {}
        if unknown:
            self.notes.append(f"Samples of classes that the reference lacks count as unlabelled: {_names(unknown)}.")

    def add(self, family: str) -> None:
        """Make the rows of a metric, or note why it does not apply."""
        reason = missing(family, self.samples, self.real)
        if reason is not None:
            self.skipped[family] = reason
            return
        values = self._values(family)
        nulls = self._nulls(family) if self.thorough else {}
        classes = self._values_of_classes(family) if self.thorough else {}
        for metric, estimate in values.items():
            self.rows.append(
                Row(
                    name=full_name(metric, self.samples.extractor),
                    metric=metric,
                    estimate=estimate,
                    n=_number(family, self.samples),
                    reference_n=_reference_number(family, self.real),
                    better=BETTER[metric],
                    null=nulls.get(metric),
                    limit=self._limit(metric, estimate),
                    classes={name: of_class[metric] for name, of_class in classes.items() if metric in of_class},
                )
            )

    def _values(self, family: str) -> Values:
        """The samples' values, keeping what goes with them."""
        if family == "memorization":
            self._near = Nearest.of(self.samples.values, self.real.seen_images.values)
            self.memorization = judge(self._near, self.real.unseen)
            self._note_memorization(self.memorization)
            return memorization_values(self.memorization)
        if family == "label_agreement":
            self.classifier_accuracy = self.real.classifier.held_out_accuracy
        return self._families[family](self.samples, self.real)

    def _limit(self, metric: str, estimate: Estimate) -> Extrapolation | None:
        if metric != "fd" or not self.thorough:
            return None
        limit = frechet_distance_infinity(self.samples.values, self.real.normal, seed=self.real.seed, plain=estimate)
        if not limit.reliable:
            count, size = self.samples.values.shape
            self.notes.append(
                f"FD∞ is not reliable: each point of its line needs more samples than there are features ({size}), "
                f"which takes {2 * size + 2} samples in all, and there are {count}."
            )
        return limit

    def _nulls(self, family: str) -> dict[str, NullRow]:
        null = null_of(family, _number(family, self.samples), self.real)
        if null is None:
            self.notes.append(
                f"{family} has no null row: that needs {2 * LEAST_IMAGES} reference images, or as many held-out images "
                "as samples."
            )
            return {}
        reason = missing(family, null.images, null.real)
        if reason is not None:
            self.notes.append(f"{family} has no null row: of the real images, {reason}.")
            return {}
        found = self._families[family](null.images, null.real)
        matched = {} if null.as_given else self._families[family](self._as_many(null), null.real)
        return {
            metric: NullRow(
                estimate=estimate,
                n=_number(family, null.images),
                reference_n=_reference_number(family, null.real),
                source=null.source,
                matched=matched.get(metric),
                limit=_limit_of_null(metric, null, estimate),
            )
            for metric, estimate in found.items()
        }

    def _as_many(self, null: Null) -> FeatureSet:
        return some_of(self.samples, len(null.images), self.real.seed, "samples beside the null row")

    def _values_of_classes(self, family: str) -> dict[str, Values]:
        if family == "label_agreement":
            known = _known(self.samples)
            agreement = self.real.classifier.agreement(known.values, _labels(known))
            names = self.real.reference.class_names
            return {names[number]: {"label_agreement": found} for number, found in agreement.classes.items()}
        if family == "memorization" and self.samples.labels is not None:
            labels = self.samples.labels.numpy()
            return {
                name: memorization_values(judge(self._near.some(labels == number), self.real.unseen))
                for number, name in enumerate(self._classes)
                if (labels == number).any()
            }
        if family not in WITHIN_CLASSES:
            return {}
        return {
            name: FAMILIES[family](samples, real)
            for name, (samples, real) in self._classes.items()
            if min(len(samples), len(real.reference)) >= LEAST_IMAGES
        }

    def _of_each_class(self) -> dict[str, tuple[FeatureSet, RealImages]]:
        """Samples and reference images of each class by name, where both have labels of several classes."""
        reference, samples = self.real.reference, self.samples
        if samples.labels is None or reference.labels is None or len(reference.class_names) < 2:
            return {}
        classes = {}
        for number, name in enumerate(reference.class_names):
            mine = samples.subset((samples.labels == number).nonzero().flatten())
            theirs = reference.subset((reference.labels == number).nonzero().flatten())
            classes[name] = (mine, RealImages(theirs, seed=self.real.seed))
        self._note_classes({name: (len(mine), len(real.reference)) for name, (mine, real) in classes.items()})
        return classes

    def _note_classes(self, counts: dict[str, tuple[int, int]]) -> None:
        without = [name for name, (mine, _) in counts.items() if not mine]
        unknown = [name for name, (_, theirs) in counts.items() if not theirs]
        few = [name for name, both in counts.items() if all(both) and min(both) < LEAST_IMAGES]
        if without:
            self.notes.append(f"There are no samples of {len(without)} of {len(counts)} classes: {_names(without)}.")
        if unknown:
            self.notes.append(f"There are no reference images of {len(unknown)} classes: {_names(unknown)}.")
        if few:
            self.notes.append(
                f"{len(few)} of {len(counts)} classes have fewer than {LEAST_IMAGES} samples or reference images, and "
                f"so no distances of their own: {_names(few)}."
            )

    def _note_memorization(self, found: Memorization) -> None:
        if found.compared_with == LEAVE_ONE_OUT:
            self.notes.append(
                "Without held-out images, memorization compares with the training images themselves: with the distance "
                "of each to the nearest other one."
            )
        if found.unseen_copies:
            self.notes.append(
                f"{found.unseen_copies} real images that memorization compares with ({found.compared_with}) have the "
                "features of another training image; they are left out."
            )
        if found.copies:
            self.notes.append(f"{found.copies} samples have exactly the features of a training image.")


def _limit_of_null(metric: str, null: Null, estimate: Estimate) -> Extrapolation | None:
    if metric != "fd":
        return None
    return frechet_distance_infinity(null.images.values, null.real.normal, seed=null.real.seed, plain=estimate)


def _known(images: FeatureSet) -> FeatureSet:
    """The images whose class is one of the reference's."""
    return images if images.labels is None else images.subset((images.labels >= 0).nonzero().flatten())


def _labels(images: FeatureSet) -> Tensor:
    if images.labels is None:
        raise ValueError("images must have labels")
    return images.labels


def _number(family: str, images: FeatureSet) -> int:
    return len(_known(images)) if family == "label_agreement" else len(images)


def _reference_number(family: str, real: RealImages) -> int:
    if family == "inception_score":
        return 0
    if family == "memorization":
        return len(real.seen_images)
    return len(real.training_images if family == "label_agreement" else real.reference)


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
