"""The ``evaluation`` section: metrics, features and number of images."""

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
"""Metrics that are computed by default."""

FEATURES = ("auto", "efflite0", "pixels", "digits", "inception", "dinov2", "clip")
"""Feature extractors by name; others are given by the dotted path of a class."""

WITH_WEIGHTS_FILE = ("inception", "dinov2", "clip")
"""Feature extractors whose weights come with no package."""

NAMED_SETS = ("digits", "digits_heldout", "emoji", "mnist", "cifar10", "fashion_mnist")
"""Image sets that are referred to by name, besides folders and files."""

MIN_IMAGES = 20
"""Minimum number of images in each set for any metric: intervals of fewer are meaningless."""

GENERATED = 1000
"""Default number of images to generate."""


def _differ(metrics: tuple[MetricName, ...]) -> tuple[MetricName, ...]:
    if len(set(metrics)) < len(metrics):
        raise ValueError("must name each metric once")
    return metrics


class EvaluationSettings(Section):
    """``evaluation``: metrics of image quality."""

    metrics: Annotated[tuple[MetricName, ...], Field(strict=False, min_length=1), AfterValidator(_differ)] = Field(
        json_schema_extra={"uniqueItems": True},
        default=DEFAULT_METRICS,
        description="Metrics to compute: Fréchet distance (`fd`), kernel distance (`kid`), `inception_score`, "
        "`precision_recall`, `density_coverage`, `label_agreement` and `memorization`.",
    )
    features: Annotated[str, NameOrPath(*FEATURES)] = Field(
        default="auto",
        description="Network whose features are compared. `auto` is `efflite0` for images of 32 pixels and more; for "
        "smaller ones `digits` if the reference has classes, else `pixels`. A dotted path names a custom class "
        "derived from `diffusion_lab.features.FeatureExtractor`.",
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
        default=GENERATED, description="Number of images to generate and evaluate; every metric depends on it."
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


Paths = PathText | Annotated[tuple[PathText, ...], Field(strict=False, min_length=1)]
"""One path, or several."""


class EvaluateSettings(EvaluationSettings):
    """``evaluation`` of `evaluate.py`, which also compares folders."""

    num_samples: Annotated[PositiveInt, Field(ge=MIN_IMAGES)] | None = Field(  # type: ignore[assignment]
        default=None,
        description="Number of images to evaluate, the same for every set: every metric depends on it. `null`: 1,000 "
        "generated images; for folders, as many as the smallest contains.",
    )
    samples: Paths | None = Field(
        default=None,
        description="Folder of images to evaluate, or an npz file of the ADM suite, instead of images generated from "
        "the checkpoint; of a list, each is evaluated.",
    )
    reference: PathText | None = Field(
        default=None,
        description="Folder or npz file of real images to compare with, instead of the data of the run; or the name of "
        "a data set (`digits`, `emoji`, …), or another run, whose training images are used.",
    )
    held_out: PathText | None = Field(
        default=None,
        description="More real images, none of which is in `reference`, for null rows and `memorization`: a folder, an "
        "npz file, or a data set such as `digits_heldout`. `null`: the other split of the run.",
    )
    image_size: PositiveInt | None = Field(
        default=None,
        description="Height and width in pixels to which images of folders are resized and cropped; `null`: those of "
        "the model; without a checkpoint, images are used unchanged and must all have the same size.",
    )
