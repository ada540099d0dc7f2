"""Names under which a run logs its metrics, and whether higher or lower is better."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

Direction = Literal["min", "max"]

NOISE_BANDS = ("low", "medium", "high", "extreme")
"""Bands of the noise-to-signal ratio ``sigma / alpha``, comparable across noise processes."""
LOSSES = ("loss", *(f"loss_at_{band}_noise" for band in NOISE_BANDS))
RAW_LOSSES = tuple(loss.replace("loss", "loss_raw") for loss in LOSSES)
"""Losses of the raw weights, logged in addition if an EMA is validated."""
VALIDATION_LOSSES = (*LOSSES, *RAW_LOSSES)
GRADIENT_NORM = "train/gradient_norm"
"""Total norm of the gradients of a step, before clipping."""
THROUGHPUT = "train/images_per_second"
"""Images per second between logged steps: reports and dashboards derive it, unless the run logs it itself."""
LOGGED_METRICS = (
    *(f"val/{loss}" for loss in VALIDATION_LOSSES),
    *(f"train/{loss}" for loss in LOSSES),
    GRADIENT_NORM,
    "train/learning_rate",
)
"""Names of the logged metrics; some runs have no EMA, or no noise level in one of the bands."""

MetricName = Literal[
    "fd", "kid", "inception_score", "precision_recall", "density_coverage", "label_agreement", "memorization"
]
METRICS: tuple[MetricName, ...] = get_args(MetricName)
"""All metrics by name."""

DEFAULT_METRICS: tuple[MetricName, ...] = tuple(name for name in METRICS if name != "inception_score")
"""Metrics that are computed by default."""

MIN_IMAGES = 20
"""Minimum number of images in each set for any metric: intervals of fewer are meaningless."""

MIN_PHOTO_SIZE = 32
"""Side in pixels from which the features ``auto`` are those of a network trained on photographs."""

VALUES: dict[MetricName, tuple[str, ...]] = {
    "fd": ("fd",),
    "kid": ("kid",),
    "inception_score": ("is",),
    "precision_recall": ("precision", "recall"),
    "density_coverage": ("density", "coverage"),
    "label_agreement": ("label_agreement",),
    "memorization": ("memorization", "memorization_nearer"),
}
"""Values computed by each metric of the ``evaluation`` section, by the short names of ``evaluation.measurement``."""

HIGHER_IS_BETTER = ("is", "precision", "recall", "density", "coverage", "label_agreement")
"""Values for which higher is better."""

INCEPTION_NAMES = {"fd": "fid", "kid": "kid", "is": "is"}
"""Names of the values computed with Inception's features, and only with these."""


def logged_name(value: str, features: str) -> str:
    """Return the name under which a value is logged.

    >>> logged_name("kid", "efflite0"), logged_name("fd", "inception")
    ('val/kid_efflite0', 'val/fid')

    Args:
        value: One of ``VALUES``.
        features: Name of the feature extractor.
    """
    if features == "inception" and value in INCEPTION_NAMES:
        return f"val/{INCEPTION_NAMES[value]}"
    return f"val/{value}_{features}"


def logged_names(metrics: Iterable[MetricName], features: str) -> tuple[str, ...]:
    """Return the names under which the values of metrics are logged, with the features of one extractor."""
    return tuple(logged_name(value, features) for metric in metrics for value in VALUES[metric])


def evaluated_names(metrics: Iterable[MetricName], features: str, image_size: int) -> tuple[str, ...]:
    """Return the names that the evaluation may log; several if ``auto`` features depend on the data.

    Args:
        metrics: The metrics.
        features: Name of the feature extractor, or ``auto``.
        image_size: In pixels.
    """
    if features != "auto":
        return logged_names(metrics, features)
    if image_size >= MIN_PHOTO_SIZE:
        return logged_names(metrics, "efflite0")
    return (*logged_names(metrics, "digits"), *logged_names(metrics, "pixels"))


def value_of(name: str) -> str | None:
    """Return the value that a logged name stands for, with any features; None for any other name."""
    stem = name.removeprefix("val/")
    if stem == name:
        return None
    if stem in INCEPTION_NAMES.values():
        return {called: value for value, called in INCEPTION_NAMES.items()}[stem]
    values = (value for metric in VALUES.values() for value in metric)
    return next((value for value in values if stem.startswith(f"{value}_") and stem != f"{value}_"), None)


def value_without_features(name: str) -> str:
    """Return the value that a name without features probably stands for.

    >>> value_without_features("val/fid"), value_without_features("kid")
    ('fd', 'kid')
    """
    stem = name.removeprefix("val/")
    return {"fid": "fd", "inception_score": "is"}.get(stem, stem)


def is_evaluated(name: str) -> bool:
    """Return whether a name is one under which the evaluation during training logs a value.

    >>> is_evaluated("val/recall_digits"), is_evaluated("val/loss"), is_evaluated("kid_efflite0")
    (True, False, False)
    """
    return value_of(name) is not None


def direction_of(name: str) -> Direction:
    """Return whether lower (``min``) or higher (``max``) values of a logged metric are better by default."""
    return "max" if value_of(name) in HIGHER_IS_BETTER else "min"


def validation_direction(validation: Mapping[str, Any]) -> Direction:
    """Return ``mode`` of a ``training.validation`` section as plain containers, or what its metric implies."""
    mode = validation.get("mode")
    if mode in ("min", "max"):
        return "max" if mode == "max" else "min"
    return direction_of(str(validation.get("metric")))
