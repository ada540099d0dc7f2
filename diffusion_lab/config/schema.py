"""The whole configuration as types: every key with its type, its bounds and its meaning, stated once.

Keys of the V2 format are required; what the project adds has a default. Rules that join several keys are in
``consistency.py``: build these objects with ``parse_config``, which checks both.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from diffusion_lab.config.choice import ChoiceSettings
from diffusion_lab.config.data_section import DataSettings
from diffusion_lab.config.loss_section import PenaltySettings, TimesSettings, WeightingSettings
from diffusion_lab.config.model_section import ModelOfCheckpoint, ModelSettings
from diffusion_lab.config.sampler_section import SamplerSettings, default_sampler
from diffusion_lab.config.section import (
    MOST_PROCESSES,
    DeviceName,
    DottedPath,
    ExperimentName,
    FolderName,
    NonNegative,
    PathText,
    PositiveInt,
    Probability,
    Section,
    with_defaults,
)
from diffusion_lab.config.training_evaluation import TrainingEvaluationSettings
from diffusion_lab.config.training_section import Precision, TrainingSettings
from diffusion_lab.config.wandb_environment import VARIABLES, from_environment

Label = Annotated[int, Field(ge=0)] | str
MODES = ("train", "generate")

CHOICES: tuple[type[ChoiceSettings], ...] = (SamplerSettings, PenaltySettings, WeightingSettings, TimesSettings)
"""The sections that name a class and hold its options."""


def _is_a_mode(value: object) -> object:
    if value not in MODES:  # said here, because each of the two classes below takes only one
        raise PydanticCustomError("choice", "must be 'train' or 'generate'", {"names": MODES})
    return value


def _rises(interval: tuple[float, float]) -> tuple[float, float]:
    if interval[0] >= interval[1]:
        raise ValueError("must be two numbers, the first below the second")
    return interval


class ComputeSettings(Section):
    """``compute``: the machine and the randomness."""

    device: Annotated[str, DeviceName()] = Field(
        description="Where to compute; `auto` takes the best that is there, `cuda:1` the second GPU."
    )
    seed: Annotated[int, Field(ge=0)] | None = Field(
        description="Seed of every random draw, also of your own code that draws from the global generators of Python, "
        "NumPy and torch (0 is a seed like any other); `null` draws one and records it."
    )
    threads: Literal["auto"] | Annotated[int, Field(ge=1, le=MOST_PROCESSES)] = Field(
        default="auto",
        description="CPU threads to compute with. `auto` takes the cores that other programs leave free at the start, "
        "no more than the network gains from, one less for each loader worker; a resumed run takes as many as before.",
    )
    deterministic: bool = Field(
        default=False,
        description="Use deterministic algorithms alone, so that two runs of one seed are equal bit by bit on a GPU, "
        "too; slower, and an error where an operation has none.",
    )


@with_defaults(device="auto", seed=None)
class GenerateComputeSettings(ComputeSettings):
    """``compute`` with `mode: generate`, where every key has a default."""


class SubfolderSettings(Section):
    """``output.subdirs``: folders inside ``output.base_dir``; further names are for programs of your own."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, FolderName]

    logs: FolderName = Field(description="Metrics and the loggers' own files.")
    checkpoints: FolderName = Field(description="Checkpoints.")
    samples: FolderName = Field(description="Pictures sampled while training.")
    generated: FolderName = Field(description="Images made by `sample.py`.")


@with_defaults(logs="logs", checkpoints="checkpoints", samples="samples", generated="generated")
class GenerateSubfolderSettings(SubfolderSettings):
    """``output.subdirs`` with `mode: generate`, where every key has a default."""


class OutputSettings(Section):
    """``output``: where everything is written."""

    base_dir: PathText = Field(description="The folder of the run.")
    subdirs: SubfolderSettings
    overwrite: bool = Field(default=False, description="Write into a folder that already holds a run.")

    def folder(self, name: str) -> Path:
        """One of ``subdirs``, inside ``base_dir``; it need not exist."""
        path: Path = self.base_dir / getattr(self.subdirs, name)
        return path


class GenerateOutputSettings(OutputSettings):
    """``output`` with `mode: generate`."""

    subdirs: GenerateSubfolderSettings = Field(default_factory=partial(GenerateSubfolderSettings.model_validate, {}))


class SamplingSettings(Section):
    """``generation.sampling``: which images to make, and how many."""

    num_samples: PositiveInt = Field(description="Images to make, spread evenly over the labels.")
    guidance_scale: NonNegative | Annotated[tuple[NonNegative, ...], Field(strict=False, min_length=1)] = Field(
        description="Classifier-free guidance, `uncond + scale · (cond − uncond)`: above 1 strengthens the label, "
        "below 1 weakens it; 1 is the plain conditional model, and so is 0, which switches guidance off. Of a list, "
        "each is for one image of every label, in turn."
    )
    use_ema: bool = Field(description="Sample from the averaged weights.")
    ema_decay: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        default=None,
        description="Which average, by its decay: `training.ema.decay` of the checkpoint (also `null`) or one of its "
        "`further_decays`.",
    )
    labels: Annotated[tuple[Label, ...], Field(strict=False, min_length=1)] | None = Field(
        default=None, description="Class numbers or names to make; `null` is all classes."
    )
    batch_size: PositiveInt = Field(default=64, description="Images made at a time; it does not change them.")
    precision: Precision | None = Field(
        default=None,
        description="What the network computes in, as `training.performance.precision`. `null`: `auto` where the run "
        "was trained in less than 32 bits, else 32. The images of a seed differ slightly from one to the other.",
    )

    @property
    def scales(self) -> tuple[float, ...]:
        """The guidance scales, of which each round of the labels takes the next."""
        return self.guidance_scale if isinstance(self.guidance_scale, tuple) else (self.guidance_scale,)


@with_defaults(num_samples=100, guidance_scale=3.0, use_ema=True)
class GenerateSamplingSettings(SamplingSettings):
    """``generation.sampling`` with `mode: generate`, where every key has a default."""


class GuidanceSettings(Section):
    """``guidance``: where classifier-free guidance is applied, and what keeps it from overexposure."""

    interval: Annotated[tuple[NonNegative, NonNegative], AfterValidator(_rises), Field(strict=False)] | None = Field(
        default=None,
        description="Guide only where low < sigma / alpha ≤ high, noise to signal (arXiv:2404.07724); `null` guides at "
        "all noise levels.",
    )
    rescale: Probability = Field(
        default=0.0,
        description="How far to pull the contrast of each guided image back to that of the plain conditional one "
        "(arXiv:2305.08891, section 3.4): 0 not at all, 1 entirely.",
    )


class GenerationOutputSettings(Section):
    """``generation.output``: what is written for the images made."""

    save_individual: bool = Field(description="One PNG an image.")
    save_grid: bool = Field(description="All images in one picture.")
    grid_nrow: PositiveInt = Field(
        description="Most images in a row of the grid. Each class begins a row, with its name; of several guidance "
        "scales each has columns of its own."
    )
    save_npz: bool = Field(default=False, description="`samples.npz` in the layout of the ADM evaluation suite.")


@with_defaults(save_individual=True, save_grid=True, grid_nrow=10)
class GeneratedFilesSettings(GenerationOutputSettings):
    """``generation.output`` with `mode: generate`, where every key has a default."""


class GenerationSettings(Section):
    """``generation``: making images from a checkpoint."""

    checkpoint: PathText | None = Field(description="Checkpoint file or run folder; required with `mode: generate`.")
    sampling: SamplingSettings
    output: GenerationOutputSettings
    trust: DottedPath | Annotated[tuple[DottedPath, ...], Field(strict=False)] = Field(
        default=(),
        description="Dotted path of your own class, or a list of such, that may be imported because the checkpoint "
        "names it: importing runs code.",
    )

    @property
    def trusted(self) -> tuple[str, ...]:
        """The dotted paths in ``trust``."""
        return (self.trust,) if isinstance(self.trust, str) else self.trust


class GenerateGenerationSettings(GenerationSettings):
    """``generation`` with `mode: generate`, where the checkpoint alone is required."""

    sampling: GenerateSamplingSettings = Field(default_factory=partial(GenerateSamplingSettings.model_validate, {}))
    output: GeneratedFilesSettings = Field(default_factory=partial(GeneratedFilesSettings.model_validate, {}))


class LoggerSettings(Section):
    """``logger``: who else hears of the metrics; the run's own ``metrics.jsonl`` is always written."""

    backends: Annotated[tuple[Literal["wandb", "tensorboard"], ...], Field(strict=False)] = Field(
        default=(), description="Loggers beside `metrics.jsonl`."
    )
    mode: Literal["offline", "online", "disabled"] = Field(
        default="offline",
        description="W&B: `offline` needs no account and no network, `online` sends to the cloud, "
        "`disabled` does nothing.",
    )
    project: Annotated[str, Field(min_length=1)] = Field(default="diffusion_lab", description="W&B project.")
    entity: str | None = Field(default=None, description="W&B user or team; `null` is the account's own.")
    group: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="W&B group, under which runs are shown together; `null` is the experiment."
    )
    name: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="Name of the run on W&B; `null` is that of the run folder."
    )
    dir: PathText | None = Field(
        default=None, description="Folder of W&B's files; `null` is the run folder's own `logs`."
    )

    @model_validator(mode="before")
    @classmethod
    def _from_environment(cls, given: Any) -> Any:
        """W&B's environment variables stand for keys that are left out."""
        backends = given.get("backends") if isinstance(given, Mapping) else None
        if not isinstance(backends, list | tuple) or "wandb" not in backends:
            return given
        told = {key: value for key in VARIABLES if key not in given and (value := from_environment(key)) is not None}
        return {**given, **told}


class RunConfig(Section):
    """What training and generation have in common."""

    experiment: ExperimentName = Field(
        default="diffusion",
        description="Name of the experiment, part of the run folder's name and of what loggers show.",
    )
    name: str | None = Field(
        default=None,
        exclude=True,  # the experiment says it
        description="Stands for `experiment` in commands of `train.py`, where `experiment=NAME` takes a recipe.",
    )
    compute: ComputeSettings
    output: OutputSettings
    generation: GenerationSettings
    sampler: SamplerSettings = Field(
        default_factory=default_sampler,
        description="The sampling method, for generation and for pictures while training.",
    )
    guidance: GuidanceSettings = Field(
        default_factory=GuidanceSettings,
        description="How guidance is applied, for generation, and for pictures and evaluation while training.",
    )


class TrainConfig(RunConfig):
    """The settings of a training run (``mode: train``)."""

    mode: Annotated[Literal["train"], BeforeValidator(_is_a_mode)] = Field(
        default="train", description="What the settings are for: training, or making images from a checkpoint."
    )
    model: ModelSettings
    data: DataSettings
    training: TrainingSettings
    evaluation: TrainingEvaluationSettings = Field(default_factory=TrainingEvaluationSettings)
    logger: LoggerSettings = Field(default_factory=LoggerSettings)


class GenerateConfig(RunConfig):
    """The settings of a generation run (``mode: generate``).

    The checkpoint brings its own model; ``model`` is for those of other programs, which do not. The sections of
    training may stand here, as in a file used for both; what they hold is checked and not read. Required are ``mode``,
    ``generation.checkpoint`` and ``output.base_dir``: ``parse_config`` gives all other keys their defaults.
    """

    compute: GenerateComputeSettings = Field(default_factory=partial(GenerateComputeSettings.model_validate, {}))
    output: GenerateOutputSettings
    generation: GenerateGenerationSettings

    mode: Annotated[Literal["generate"], BeforeValidator(_is_a_mode)] = Field(
        description="What the settings are for: training, or making images from a checkpoint."
    )
    model: ModelOfCheckpoint | None = None
    data: DataSettings | None = None
    training: TrainingSettings | None = None
    evaluation: TrainingEvaluationSettings | None = None
    logger: LoggerSettings = Field(default_factory=LoggerSettings)


def root_of(config: Mapping[str, Any]) -> type[TrainConfig] | type[GenerateConfig]:
    """The class that a tree is checked against: by its mode, and for training where that cannot be told."""
    if not isinstance(config, Mapping):
        raise TypeError(f"a configuration must be a mapping of keys to values, got {type(config).__name__}")
    mode = config.get("mode")
    return GenerateConfig if isinstance(mode, str) and mode.lower() == "generate" else TrainConfig
