"""Metrics by class, with the numbers of images and the null values of real images of the class."""

from __future__ import annotations

from collections.abc import Mapping

from diffusion_lab.evaluation.families import FAMILIES, Values, count_reference_images, memorization_values
from diffusion_lab.evaluation.measurement import ClassNull, ClassValue, NullRow
from diffusion_lab.evaluation.metrics import Estimate
from diffusion_lab.evaluation.metrics.memorization import compare_distances
from diffusion_lab.evaluation.null_rows import NullComparison, compute_null_rows, matched_samples, null_comparison
from diffusion_lab.evaluation.real_images import RealImages, labelled_subset
from diffusion_lab.features.feature_set import FeatureSet
from diffusion_lab.metric_names import MIN_IMAGES

WITHIN_CLASSES = ("fd", "kid", "precision_recall", "density_coverage")
"""Metrics that compare the samples of a class only with the reference images of that class."""

ClassValues = dict[str, dict[str, ClassValue]]
"""Values by the name of the class and of the metric."""


class Classes:
    """Samples and real images of each class, if both have labels of several classes.

    Args:
        samples: Samples, with classes numbered as those of the real images.
        real: Real images.
    """

    def __init__(self, samples: FeatureSet, real: RealImages) -> None:
        self.samples, self.real = samples, real
        self._sets = _sets_by_class(samples, real)

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """Numbers of samples and of reference images of each class."""
        return {name: (len(samples), len(real.reference)) for name, (samples, real) in self._sets.items()}

    def values(self, family: str, null: NullComparison | None, matched: FeatureSet) -> ClassValues:
        """Return the values of a metric for each class that has enough images.

        Args:
            family: The metric.
            null: Images that the null row of all classes is computed from; None if there is none.
            matched: As many samples as there are images in place of them in ``null``.
        """
        if family in WITHIN_CLASSES:
            return {
                name: _values_within(family, samples, real)
                for name, (samples, real) in self._sets.items()
                if min(len(samples), len(real.reference)) >= MIN_IMAGES
            }
        real_values = {} if null is None else _values_by_class(family, null.images, null.real)
        matched_values = {} if null is None or null.same_conditions else _values_by_class(family, matched, null.real)
        class_values: ClassValues = {}
        for name, (values, count) in _values_by_class(family, self.samples, self.real).items():
            nulls: dict[str, ClassNull] = {}
            if null is not None and name in real_values:
                null_values, n = real_values[name]
                matched_class = matched_values[name][0] if name in matched_values else {}
                reference_n = count_reference_images(family, null.real)
                nulls = {
                    metric: _class_null(estimate, n, reference_n, matched_class.get(metric))
                    for metric, estimate in null_values.items()
                }
            class_values[name] = _class_values(values, count, count_reference_images(family, self.real), nulls)
        return class_values


def _sets_by_class(samples: FeatureSet, real: RealImages) -> dict[str, tuple[FeatureSet, RealImages]]:
    reference = real.reference
    if samples.labels is None or reference.labels is None or len(reference.class_names) < 2:
        return {}
    return {
        name: (
            _class_subset(samples, number),
            RealImages(
                _class_subset(reference, number),
                None if real.held_out is None else _class_subset(real.held_out, number),
                seed=real.seed,
            ),
        )
        for number, name in enumerate(reference.class_names)
    }


def _class_subset(images: FeatureSet, number: int) -> FeatureSet:
    """Return the images of a class; an empty set if the images have no labels."""
    return images.subset([] if images.labels is None else (images.labels == number).nonzero().flatten())


def _values_within(family: str, samples: FeatureSet, real: RealImages) -> dict[str, ClassValue]:
    """Compare the samples of a class with its reference images, with null values from real images of the class."""
    null = null_comparison(family, len(samples), real)
    rows = {} if null is None else compute_null_rows(family, null, matched_samples(family, samples, null))
    nulls = {metric: _shortened(row) for metric, row in rows.items()}
    return _class_values(FAMILIES[family](samples, real), len(samples), len(real.reference), nulls)


def _values_by_class(family: str, images: FeatureSet, real: RealImages) -> dict[str, tuple[Values, int]]:
    """Return the values of each class, compared with the real images of all classes, and its number of images."""
    known = labelled_subset(images)
    if known is None or known.labels is None or len(real.class_names) < 2:
        return {}
    values_by_number: dict[int, Values] = {}
    if family == "label_agreement":
        agreement = real.classifier.agreement(known.values, known.labels)
        values_by_number = {number: {"label_agreement": estimate} for number, estimate in agreement.classes.items()}
    elif family == "memorization" and images.labels is not None:
        near, labels = real.nearest(images), images.labels.numpy()
        values_by_number = {
            number: memorization_values(compare_distances(near.select(labels == number), real.unseen))
            for number in known.labels.unique().tolist()
        }
    counts = known.labels.bincount()
    return {real.class_names[number]: (values, int(counts[number])) for number, values in values_by_number.items()}


def _class_values(values: Values, n: int, reference_n: int, nulls: Mapping[str, ClassNull]) -> dict[str, ClassValue]:
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


def _shortened(row: NullRow) -> ClassNull:
    return _class_null(row.estimate, row.n, row.reference_n, row.matched)


def _class_null(estimate: Estimate, n: int, reference_n: int, matched: Estimate | None) -> ClassNull:
    return ClassNull(
        estimate.value, estimate.low, estimate.high, n, reference_n, None if matched is None else matched.value
    )
