"""The names by which the evaluation during training logs its metrics, and which of them should rise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from diffusion_lab.config.evaluation_section import MetricName

Direction = Literal["min", "max"]

VALUES: dict[MetricName, tuple[str, ...]] = {
    "fd": ("fd",),
    "kid": ("kid",),
    "inception_score": ("is",),
    "precision_recall": ("precision", "recall"),
    "density_coverage": ("density", "coverage"),
    "label_agreement": ("label_agreement",),
    "memorization": ("memorization", "memorization_nearer"),
}
"""The values that each metric of the ``evaluation`` section gives, by the short names of ``evaluation.measurement``."""

RISING = ("is", "precision", "recall", "density", "coverage", "label_agreement")
"""Values that are the better the higher they are."""

OF_INCEPTION = {"fd": "fid", "kid": "kid", "is": "is"}
"""What values of Inception's features, and of no others, are called."""


def logged_name(value: str, features: str) -> str:
    """Return the name under which a value is logged.

    >>> logged_name("kid", "efflite0"), logged_name("fd", "inception")
    ('val/kid_efflite0', 'val/fid')

    Args:
        value: One of ``VALUES``.
        features: Name of the feature extractor.
    """
    if features == "inception" and value in OF_INCEPTION:
        return f"val/{OF_INCEPTION[value]}"
    return f"val/{value}_{features}"


def logged_names(metrics: Iterable[MetricName], features: str) -> tuple[str, ...]:
    """Return the names under which the values of metrics are logged, with the features of one extractor."""
    return tuple(logged_name(value, features) for metric in metrics for value in VALUES[metric])


def value_of(name: str) -> str | None:
    """Return which value a logged name stands for, whatever the features; None for the name of anything else."""
    stem = name.removeprefix("val/")
    if stem == name:
        return None
    if stem in OF_INCEPTION.values():
        return {called: value for value, called in OF_INCEPTION.items()}[stem]
    values = (value for metric in VALUES.values() for value in metric)
    return next((value for value in values if stem.startswith(f"{value}_") and stem != f"{value}_"), None)


def is_evaluated(name: str) -> bool:
    """Whether a name is one by which the evaluation during training logs a value.

    >>> is_evaluated("val/recall_digits"), is_evaluated("val/loss"), is_evaluated("kid_efflite0")
    (True, False, False)
    """
    return value_of(name) is not None


def direction_of(name: str) -> Direction:
    """Return whether lower (``min``) or higher (``max``) values of a logged metric are better, if nobody says it."""
    return "max" if value_of(name) in RISING else "min"


def watched_direction(validation: Mapping[str, Any]) -> Direction:
    """Return ``mode`` of a ``training.validation`` section as plain containers, or what its metric implies."""
    given = validation.get("mode")
    if given in ("min", "max"):
        return "max" if given == "max" else "min"
    return direction_of(str(validation.get("metric")))
