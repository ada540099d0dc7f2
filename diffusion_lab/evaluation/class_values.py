"""The values of each class: of how many images they are, and what real images of the class have in their place."""

from __future__ import annotations

from collections.abc import Mapping

from diffusion_lab.config.evaluation_section import MIN_IMAGES
from diffusion_lab.evaluation.families import FAMILIES, Values, count_reference_images, memorization_values
from diffusion_lab.evaluation.measurement import ClassNull, ClassValue, NullRow
from diffusion_lab.evaluation.metrics import Estimate
from diffusion_lab.evaluation.metrics.memorization import compare_distances
from diffusion_lab.evaluation.null_rows import NullComparison, compute_null_rows, matched_samples, null_comparison
from diffusion_lab.evaluation.real_images import RealImages, labelled_subset
from diffusion_lab.features.feature_set import FeatureSet

WITHIN_CLASSES = ("fd", "kid", "precision_recall", "density_coverage")
"""Metrics that compare the samples of a class with the reference images of that class alone."""

ClassValues = dict[str, dict[str, ClassValue]]
"""Values by the name of the class and of the metric."""


class Classes:
    """The samples and the real images of each class, where both have labels of several classes.

    Args:
        samples: What is measured; its classes are numbered as those of the real images.
        real: The real images.
    """

    def __init__(self, samples: FeatureSet, real: RealImages) -> None:
        self.samples, self.real = samples, real
        self._sets = _sets_by_class(samples, real)

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """How many samples and how many reference images there are of each class."""
        return {name: (len(samples), len(real.reference)) for name, (samples, real) in self._sets.items()}

    def values(self, family: str, null: NullComparison | None, as_many: FeatureSet) -> ClassValues:
        """Return the values of a metric for each class that has enough images.

        Args:
            family: The metric.
            null: What its null row of all classes is computed from; None where there is none.
            as_many: Samples, as many as that has images.
        """
        if family in WITHIN_CLASSES:
            return {
                name: _values_within(family, samples, real)
                for name, (samples, real) in self._sets.items()
                if min(len(samples), len(real.reference)) >= MIN_IMAGES
            }
        of_real = {} if null is None else _values_of_each(family, null.images, null.real)
        matched = {} if null is None or null.same_conditions else _values_of_each(family, as_many, null.real)
        found: ClassValues = {}
        for name, (values, count) in _values_of_each(family, self.samples, self.real).items():
            nulls: dict[str, ClassNull] = {}
            if null is not None and name in of_real:
                of_class, number = of_real[name]
                alike = matched[name][0] if name in matched else {}
                against = count_reference_images(family, null.real)
                nulls = {
                    metric: _null(estimate, number, against, alike.get(metric)) for metric, estimate in of_class.items()
                }
            found[name] = _told(values, count, count_reference_images(family, self.real), nulls)
        return found


def _sets_by_class(samples: FeatureSet, real: RealImages) -> dict[str, tuple[FeatureSet, RealImages]]:
    reference = real.reference
    if samples.labels is None or reference.labels is None or len(reference.class_names) < 2:
        return {}
    return {
        name: (
            _of_class(samples, number),
            RealImages(
                _of_class(reference, number),
                None if real.held_out is None else _of_class(real.held_out, number),
                seed=real.seed,
            ),
        )
        for number, name in enumerate(reference.class_names)
    }


def _of_class(images: FeatureSet, number: int) -> FeatureSet:
    """The images of a class; none where their classes are not known."""
    return images.subset([] if images.labels is None else (images.labels == number).nonzero().flatten())


def _values_within(family: str, samples: FeatureSet, real: RealImages) -> dict[str, ClassValue]:
    """Of the samples of a class against its reference images, with a null row from real images of the class."""
    null = null_comparison(family, len(samples), real)
    rows = {} if null is None else compute_null_rows(family, null, matched_samples(family, samples, null))
    nulls = {metric: _null_in_short(row) for metric, row in rows.items()}
    return _told(FAMILIES[family](samples, real), len(samples), len(real.reference), nulls)


def _values_of_each(family: str, images: FeatureSet, real: RealImages) -> dict[str, tuple[Values, int]]:
    """Of the images of each class, judged by what all images are judged by; with the number of these images."""
    known = labelled_subset(images)
    if known is None or known.labels is None or len(real.class_names) < 2:
        return {}
    found: dict[int, Values] = {}
    if family == "label_agreement":
        agreement = real.classifier.agreement(known.values, known.labels)
        found = {number: {"label_agreement": estimate} for number, estimate in agreement.classes.items()}
    elif family == "memorization" and images.labels is not None:
        near, labels = real.nearest(images), images.labels.numpy()
        found = {
            number: memorization_values(compare_distances(near.select(labels == number), real.unseen))
            for number in known.labels.unique().tolist()
        }
    counts = known.labels.bincount()
    return {real.class_names[number]: (values, int(counts[number])) for number, values in found.items()}


def _told(values: Values, n: int, reference_n: int, nulls: Mapping[str, ClassNull]) -> dict[str, ClassValue]:
    return {
        metric: ClassValue(
            value=estimate.value,
            low=estimate.low,
            high=estimate.high,
            standard_error=estimate.standard_error,
            method=estimate.method,
            n=n,
            reference_n=reference_n,
            null=nulls.get(metric),
        )
        for metric, estimate in values.items()
    }


def _null_in_short(row: NullRow) -> ClassNull:
    return _null(row.estimate, row.n, row.reference_n, row.matched)


def _null(estimate: Estimate, n: int, reference_n: int, matched: Estimate | None) -> ClassNull:
    return ClassNull(
        estimate.value, estimate.low, estimate.high, n, reference_n, None if matched is None else matched.value
    )
