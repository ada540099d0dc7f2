"""The ``evaluation`` section: metrics, features and number of images."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from diffusion_lab.faults.sampling_warnings import asks_for_guidance
from diffusion_lab.metric_names import MetricName
from diffusion_lab.typed_settings.section import NameOrPath, NonNegative, PathText, PositiveInt, Section

EVALUATIONS = 10
"""Maximum number of evaluations in a run with ``every: auto``."""

FEATURES = ("auto", "efflite0", "pixels", "digits", "inception", "dinov2", "clip")
"""Feature extractors by name; others are given by the dotted path of a class."""

WITH_WEIGHTS_FILE = ("inception", "dinov2", "clip")
"""Feature extractors whose weights come with no package."""


def _differ(metrics: tuple[MetricName, ...]) -> tuple[MetricName, ...]:
    if len(set(metrics)) < len(metrics):
        raise ValueError("must name each metric once")
    return metrics


Metrics = Annotated[
    tuple[MetricName, ...],
    Field(
        strict=False,
        min_length=1,
        json_schema_extra={"uniqueItems": True},
        description="Metrics to compute: Fréchet distance (`fd`), kernel distance (`kid`), `inception_score`, "
        "`precision_recall`, `density_coverage`, `label_agreement` and `memorization`.",
    ),
    AfterValidator(_differ),
]


class EvaluationSettings(Section):
    """``evaluation``: metrics of image quality. How many images and which metrics is the default of a program."""

    metrics: Metrics
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
    num_samples: PositiveInt
    split: Literal["train", "val"] = Field(
        default="train",
        description="Images of the run to compare with: those it was trained on, or those it was validated on.",
    )
    cache_dir: PathText | None = Field(
        default=None,
        description="Folder in which the features of reference images are cached; `null`: `diffusion_lab` in "
        "`$XDG_CACHE_HOME`, or in `~/.cache`.",
    )


class TrainingEvaluationSettings(EvaluationSettings):
    """``evaluation``: quality of samples during training (`evaluation=on`).

    Values are logged along with the losses, as ``val/kid_efflite0`` and so on.
    """

    metrics: Metrics = ("fd", "kid")
    num_samples: PositiveInt = Field(
        default=256, description="Number of images to generate and evaluate; every metric depends on it."
    )
    enabled: bool = Field(default=False, description="Whether to evaluate during training.")
    every: PositiveInt | Literal["auto"] = Field(
        default="auto",
        description="Epochs between evaluations; the last epoch always has one. `auto`: a tenth of `training.epochs`, "
        "rounded up.",
    )
    sampler_steps: PositiveInt = Field(
        default=10, description="Steps of the sampler `sampler=fast`, each one evaluation of the network."
    )
    guidance_scale: NonNegative = Field(
        default=1.0, description="Classifier-free guidance; 1 is the plain conditional model, at half the cost."
    )

    def interval(self, epochs: int) -> int:
        """Return ``every`` as a number, for a run of ``epochs``."""
        return -(-epochs // EVALUATIONS) if self.every == "auto" else self.every

    def reads_guidance(self, conditioning: str | None) -> bool:
        """Return whether the section ``guidance`` affects the samples, for a ``model.conditioning.type``."""
        return conditioning is not None and asks_for_guidance(self.guidance_scale)
