"""Measurements as plain data, and reasons why two of them are not comparable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from diffusion_lab.evaluation.metrics.estimate import Estimate
from diffusion_lab.evaluation.metrics.frechet import Extrapolation
from diffusion_lab.evaluation.metrics.memorization import Memorization

VERSION = 1
"""Version of the metrics, incremented with each change that gives other values for the same images."""


@dataclass(frozen=True)
class NullRow:
    """Metric of real images in place of samples: the value of perfect samples.

    Args:
        estimate: Value and interval.
        n: Number of real images in place of samples.
        reference_n: Number of real images that they were compared with.
        source: Description of these images.
        matched: Estimate of the samples with the same ``n`` and the same reference, if those of the row differ: compare
            this one with ``estimate``. None if the row itself is comparable.
        limit: FD∞ of the real images.
    """

    estimate: Estimate
    n: int
    reference_n: int
    source: str
    matched: Estimate | None = None
    limit: Extrapolation | None = None


@dataclass(frozen=True)
class ClassNull:
    """Metric of real images of a class in place of samples: the value of perfect samples of the class.

    Args:
        value: Value of the metric.
        low: Lower end of its 95 % confidence interval; None if there is none.
        high: Upper end.
        n: Number of real images in place of samples.
        reference_n: Number of real images that they were compared with.
        matched: Value of the samples with the same ``n`` and the same reference, if those of the class differ; None if
            the value of the class is comparable.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    reference_n: int
    matched: float | None = None


@dataclass(frozen=True)
class ClassValue(Estimate):
    """Metric of the samples of one class.

    Args:
        n: Number of samples.
        reference_n: Number of real images that they were compared with.
        null: Metric of real images of the class; None if there are too few.
    """

    n: int = 0
    reference_n: int = 0
    null: ClassNull | None = None


@dataclass(frozen=True)
class Row:
    """Metric of a set of samples.

    Args:
        name: Full name, with the features: ``fd_efflite0@96``; ``fid``, ``kid`` and ``is`` for Inception.
        metric: Short name: ``fd``, ``kid``, ``is``, ``precision``, ``recall``, ``density``, ``coverage``,
            ``label_agreement``, ``memorization``, ``memorization_nearer``.
        estimate: Value and interval.
        n: Number of samples.
        reference_n: Number of real images that they were compared with; 0 if none were needed.
        better: Whether lower or higher values are better.
        null: Metric of real images; None if it could not be computed or was not requested.
        limit: FD∞, for a Fréchet distance.
        classes: Values by class name, for classes with enough images.
    """

    name: str
    metric: str
    estimate: Estimate
    n: int
    reference_n: int
    better: Literal["lower", "higher"]
    null: NullRow | None = None
    limit: Extrapolation | None = None
    classes: Mapping[str, ClassValue] = field(default_factory=dict)


@dataclass(frozen=True)
class Measurement:
    """All metrics of one set of samples, with the conditions that they depend on.

    Args:
        rows: One row per metric.
        skipped: Requested metrics that do not apply, each with the reason.
        notes: Remarks needed to interpret the values, as sentences.
        n: Number of samples.
        reference_n: Number of reference images.
        held_out_n: Number of held-out images; 0 without any.
        extractor: Label of the features: ``efflite0@96``.
        extractor_fingerprint: SHA-256 of the weights and the preprocessing of the extractor.
        num_features: Number of features per image.
        data_fingerprint: SHA-256 of the reference images.
        held_out_fingerprint: SHA-256 of the held-out images.
        samples_fingerprint: SHA-256 of the samples.
        split: Name of the reference, as passed by the caller.
        seed: Seed of subsets, halves and the classifier.
        memorization: Memorization, with the nearest pairs.
        classifier_accuracy: Accuracy of the classifier behind the label agreement, on held-out real images.
        version: Version of the definitions of the metrics.
    """

    rows: tuple[Row, ...]
    skipped: Mapping[str, str]
    notes: tuple[str, ...]
    n: int
    reference_n: int
    held_out_n: int
    extractor: str
    extractor_fingerprint: str
    num_features: int
    data_fingerprint: str
    held_out_fingerprint: str | None
    samples_fingerprint: str
    split: str | None
    seed: int
    memorization: Memorization | None = None
    classifier_accuracy: Estimate | None = None
    version: int = VERSION

    def __getitem__(self, name: str) -> Row:
        """Return the row of a metric by its full or its short name.

        Raises:
            KeyError: There is no such row.
        """
        for row in self.rows:
            if name in (row.name, row.metric):
                return row
        reason = f": {self.skipped[name]}" if name in self.skipped else f"; there are {[row.name for row in self.rows]}"
        raise KeyError(f"no metric {name!r}{reason}")

    def values(self) -> dict[str, float]:
        """Return the values without intervals, by full name."""
        return {row.name: row.estimate.value for row in self.rows}

    def to_json(self) -> dict[str, Any]:
        """Return everything as dicts, lists, strings and numbers that ``json.dumps`` accepts."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain


COMPARED: Mapping[str, str] = {
    "n": "number of samples",
    "extractor": "features",
    "extractor_fingerprint": "weights or preparation of the features",
    "reference_n": "number of reference images",
    "data_fingerprint": "reference images",
    "split": "split",
    "held_out_fingerprint": "held-out images",
    "version": "version of the metrics",
}
"""Fields that must be equal in comparable measurements, each with its description."""


def reasons_not_comparable(
    first: Measurement | Mapping[str, Any], second: Measurement | Mapping[str, Any]
) -> tuple[str, ...]:
    """Return the reasons why two measurements must not be ranked; empty if they are comparable.

    Args:
        first: A measurement, or the result of its ``to_json``.
        second: Another one.
    """
    one, other = (
        measurement.to_json() if isinstance(measurement, Measurement) else measurement
        for measurement in (first, second)
    )
    return tuple(
        f"{description}: {_abbreviated(one.get(key))} and {_abbreviated(other.get(key))}"
        for key, description in COMPARED.items()
        if one.get(key) != other.get(key)
    )


def _abbreviated(value: object) -> str:
    if value is None:
        return "none"
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value
