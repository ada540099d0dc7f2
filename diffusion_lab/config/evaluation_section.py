"""The ``evaluation`` section: which metrics to compute, on which features, from how many images."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field

from diffusion_lab.config.section import NameOrPath, PathText, PositiveInt, Section

MetricName = Literal[
    "fd", "kid", "inception_score", "precision_recall", "density_coverage", "label_agreement", "memorization"
]
METRICS: tuple[MetricName, ...] = get_args(MetricName)
"""All metrics by name."""

DEFAULT_METRICS: tuple[MetricName, ...] = tuple(name for name in METRICS if name != "inception_score")
"""Those that are computed where none are named."""

FEATURES = ("auto", "efflite0", "pixels", "digits", "inception", "dinov2", "clip")
"""Feature extractors by name; others are given by the dotted path of a class."""

WITH_WEIGHTS_FILE = ("inception", "dinov2", "clip")
"""Feature extractors whose weights no package carries."""


def _differ(metrics: tuple[MetricName, ...]) -> tuple[MetricName, ...]:
    if len(set(metrics)) < len(metrics):
        raise ValueError("must name each metric once")
    return metrics


class EvaluationSettings(Section):
    """``evaluation``: how good the images are, in numbers."""

    metrics: Annotated[tuple[MetricName, ...], AfterValidator(_differ), Field(strict=False, min_length=1)] = Field(
        default=DEFAULT_METRICS,
        description="Metrics to compute: Fréchet distance (`fd`), kernel distance (`kid`), `inception_score`, "
        "`precision_recall`, `density_coverage`, `label_agreement` and `memorization`.",
    )
    features: Annotated[str, NameOrPath(*FEATURES)] = Field(
        default="auto",
        description="Network whose features are compared. `auto` is `efflite0` for images of 32 pixels and more; for "
        "smaller ones `digits` where the reference has classes, else `pixels`. A dotted path names a class of your own "
        "that derives from `diffusion_lab.features.FeatureExtractor`.",
    )
    weights: PathText | None = Field(
        default=None,
        description="File with the weights of `inception`, `dinov2` or `clip`; `null` downloads them where possible.",
    )
    sha256: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")] | None = Field(
        default=None,
        description="SHA-256 that the file in `weights` must have; `null` is that of the published file.",
    )
    num_samples: PositiveInt = Field(
        default=1000, description="Images to generate and to measure; every metric depends on it."
    )
    split: Literal["train", "val"] = Field(
        default="train",
        description="Images of the run to compare with: those it was trained on, or those it was validated on.",
    )
    cache_dir: PathText | None = Field(
        default=None,
        description="Folder in which the features of reference images are cached; `null`: `diffusion_lab` in "
        "`$XDG_CACHE_HOME`, or in `~/.cache`.",
    )
