"""What a measurement found, as plain data, and whether two of them may be compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from diffusion_lab.evaluation.metrics.estimate import Estimate
from diffusion_lab.evaluation.metrics.frechet import Extrapolation
from diffusion_lab.evaluation.metrics.memorization import Memorization

VERSION = 1
"""Raised with any change that gives other numbers for the same images."""


@dataclass(frozen=True)
class NullRow:
    """The same metric of real images instead of samples: what perfect samples would have.

    Args:
        estimate: Its value and interval.
        n: How many real images took the place of samples.
        reference_n: How many they were compared with.
        source: Which images these are, in words.
        matched: The samples' figure with the same ``n`` and the same reference, where the row's own has others: compare
            this one with ``estimate``. None where the row itself can be compared.
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
    """The same metric of real images of a class: what perfect samples of it would have.

    Args:
        value: The number.
        low: Lower end of its 95 % confidence interval; None where there is none.
        high: Upper end.
        n: How many real images took the place of samples.
        reference_n: How many they were compared with.
        matched: The figure of samples with the same ``n`` and the same reference, where those of the class have others;
            None where its own figure can be compared.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    reference_n: int
    matched: float | None = None


@dataclass(frozen=True)
class ClassValue(Estimate):
    """A metric of the samples of one class.

    Args:
        n: How many samples it was computed from.
        reference_n: How many real images they were compared with.
        null: The same of real images of the class; None where there are too few.
    """

    n: int = 0
    reference_n: int = 0
    null: ClassNull | None = None


@dataclass(frozen=True)
class Row:
    """One metric of a set of samples.

    Args:
        name: In full, with the features it was computed on: ``fd_efflite0@96``; ``fid``, ``kid`` and ``is`` alone for
            Inception's.
        metric: Short: ``fd``, ``kid``, ``is``, ``precision``, ``recall``, ``density``, ``coverage``,
            ``label_agreement``, ``memorization``, ``memorization_nearer``.
        estimate: Value and interval.
        n: How many samples it was computed from.
        reference_n: How many real images they were compared with; 0 where none were needed.
        better: Whether lower or higher values are better.
        null: The same of real images; None where it could not or was not to be computed.
        limit: FD∞ beside a Fréchet distance.
        classes: Values by class name, where there are enough images of it.
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
    """All metrics of one set of samples, with what they depend on.

    Args:
        rows: One for each metric.
        skipped: Metrics that were asked for and do not apply, with the reason.
        notes: What else has to be known to read the numbers, in sentences.
        n: How many samples.
        reference_n: How many reference images.
        held_out_n: How many held-out images; 0 without.
        extractor: Label of the features: ``efflite0@96``.
        extractor_fingerprint: SHA-256 of its weights and of how images are prepared.
        num_features: How many numbers an image has.
        data_fingerprint: SHA-256 of the reference images.
        held_out_fingerprint: That of the held-out images.
        samples_fingerprint: That of the samples.
        split: Which images of a data set the reference is, as the caller called it.
        seed: Of subsets, halves and the classifier.
        memorization: With the nearest pairs.
        classifier_accuracy: Of the classifier behind the label agreement, on real images that it did not learn from.
        version: Of the definitions of the metrics.
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
        """Return the values alone, by full name."""
        return {row.name: row.estimate.value for row in self.rows}

    def to_json(self) -> dict[str, Any]:
        """Return everything as dicts, lists, texts and numbers, as ``json.dumps`` takes them."""
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
"""What two measurements must have in common to be compared, by their fields."""


def reasons_not_comparable(
    first: Measurement | Mapping[str, Any], second: Measurement | Mapping[str, Any]
) -> tuple[str, ...]:
    """Return why two measurements must not be ranked; empty where they may be.

    Args:
        first: A measurement, or what its ``to_json`` returned.
        second: Another.
    """
    one, other = (given.to_json() if isinstance(given, Measurement) else given for given in (first, second))
    return tuple(
        f"{what}: {_shown(one.get(key))} and {_shown(other.get(key))}"
        for key, what in COMPARED.items()
        if one.get(key) != other.get(key)
    )


def _shown(value: object) -> str:
    if value is None:
        return "none"
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value
