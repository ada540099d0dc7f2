"""Schema of the settings of ``evaluate.py``. Keys of generation may have several values, each of which is evaluated."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from diffusion_lab.config.evaluation_section import EvaluationSettings, Metrics
from diffusion_lab.config.model_section import ModelOfCheckpoint
from diffusion_lab.config.sampler_section import SamplerSettings, default_sampler
from diffusion_lab.config.schema import GuidanceSettings
from diffusion_lab.config.training_section import Precision
from diffusion_lab.metric_names import DEFAULT_METRICS, MIN_IMAGES
from diffusion_lab.typed_settings.section import (
    MAX_PROCESSES,
    DeviceName,
    DottedPath,
    ExperimentName,
    NonNegative,
    PathText,
    PositiveInt,
    Section,
)

Seed = Annotated[int, Field(ge=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]


NAMED_SETS = ("digits", "digits_heldout", "emoji", "mnist", "cifar10", "fashion_mnist")
"""Image sets that are referred to by name, besides folders and files."""

Paths = PathText | Annotated[tuple[PathText, ...], Field(strict=False, min_length=1)]
"""One path, or several."""


class EvaluateSettings(EvaluationSettings):
    """``evaluation`` of `evaluate.py`, which also compares folders."""

    metrics: Metrics = DEFAULT_METRICS
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


class EvaluateComputeSettings(Section):
    """``compute`` of `evaluate.py`."""

    device: Annotated[str, DeviceName()] = Field(
        default="auto", description="Device to compute on, as for `sample.py`."
    )
    seed: Seed | Annotated[tuple[Seed, ...], Field(strict=False, min_length=1)] = Field(
        default=0, description="Seed of the images and of the random subsets of metrics; of a list, each is evaluated."
    )
    threads: Literal["auto"] | Annotated[int, Field(ge=1, le=MAX_PROCESSES)] = Field(
        default="auto", description="Number of CPU threads; `auto` uses those that other programs leave free."
    )


class EvaluateOutputSettings(Section):
    """``output`` of `evaluate.py`."""

    base_dir: PathText | None = Field(
        default=None,
        description="Folder of images and results; `null`: `evaluation` in the folder of the run or of the sweep, and "
        "without either, a folder in `outputs/evaluation` for each pair of paths.",
    )


class EvaluateSamplingSettings(Section):
    """``generation.sampling`` of `evaluate.py`: how to generate."""

    guidance_scale: NonNegative | Annotated[tuple[NonNegative, ...], Field(strict=False, min_length=1)] = Field(
        default=1.0,
        description="Classifier-free guidance; 1 is the plain conditional model. Of a list, each is evaluated.",
    )
    use_ema: bool | Annotated[tuple[bool, ...], Field(strict=False, min_length=1)] = Field(
        default=True, description="Sample from the EMA weights; of a list, each is evaluated."
    )
    ema_decay: Decay | Annotated[tuple[Decay, ...], Field(strict=False, min_length=1)] | None = Field(
        default=None,
        description="Decay of the EMA to use; `null` is the main one of the run. Of a list, each is evaluated.",
    )
    batch_size: PositiveInt = Field(default=64, description="Images generated at a time; does not affect the images.")
    precision: Precision | None = Field(
        default=None, description="Precision of the network, as for `sample.py`; `null`: that of the training."
    )


class EvaluateGenerationSettings(Section):
    """``generation`` of `evaluate.py`: the model to evaluate, and how to sample from it."""

    checkpoint: Paths | None = Field(
        default=None,
        description="Checkpoint file, run folder, or sweep folder (all finished jobs); of a list, each is evaluated.",
    )
    trust: DottedPath | Annotated[tuple[DottedPath, ...], Field(strict=False)] = Field(
        default=(),
        description="Dotted path of a custom class, or a list of them, that may be imported because a checkpoint names "
        "it: importing runs code.",
    )
    wandb: Literal["auto", "always", "never"] = Field(
        default="auto", description="Add the results to the run on W&B; `auto`: if the checkpoint's run is online."
    )
    sampling: EvaluateSamplingSettings = Field(default_factory=EvaluateSamplingSettings)

    @property
    def trusted(self) -> tuple[str, ...]:
        """The dotted paths in ``trust``."""
        return (self.trust,) if isinstance(self.trust, str) else self.trust


class MovedImagesSettings(Section):
    """``data.paths`` of `evaluate.py`: current folders of the run's images, if they have moved."""

    train: PathText | None = Field(default=None, description="Training images; `null`: the path used by the run.")
    val: PathText | None = Field(default=None, description="Validation images; `null`: the path used by the run.")


class EvaluateDataSettings(Section):
    """``data`` of `evaluate.py`: everything else about the images is in the checkpoint."""

    paths: MovedImagesSettings = Field(default_factory=MovedImagesSettings)


class EvaluateConfig(Section):
    """Settings of an evaluation."""

    experiment: ExperimentName = Field(default="evaluate", description="Name shown in lists of jobs.")
    mode: Literal["evaluate"] = Field(default="evaluate", description="Purpose of the settings.")
    compute: EvaluateComputeSettings = Field(default_factory=EvaluateComputeSettings)
    output: EvaluateOutputSettings = Field(default_factory=EvaluateOutputSettings)
    generation: EvaluateGenerationSettings = Field(default_factory=EvaluateGenerationSettings)
    evaluation: EvaluateSettings = Field(default_factory=EvaluateSettings)
    data: EvaluateDataSettings = Field(default_factory=EvaluateDataSettings)
    sampler: SamplerSettings = Field(
        default_factory=default_sampler,
        description="The sampling method; of a list of values of one of its options, each is evaluated.",
    )
    guidance: GuidanceSettings = Field(default_factory=GuidanceSettings, description="How guidance is applied.")
    model: ModelOfCheckpoint | None = Field(
        default=None, description="Model of a checkpoint of another program, which does not contain it."
    )
