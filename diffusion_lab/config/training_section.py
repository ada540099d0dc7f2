"""The ``training`` section: averaging, what happens every so many epochs, performance, resuming."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from diffusion_lab.config.evaluated_metrics import Direction, direction_of
from diffusion_lab.config.loss_section import LossSettings
from diffusion_lab.config.optimizer_section import Momentum, OptimizerSettings
from diffusion_lab.config.scheduler_section import DEFAULT_STEP_SIZE, SchedulerSettings
from diffusion_lab.config.section import DottedPath, NonNegative, PathText, PositiveInt, Section

NOISE_BANDS = ("low", "medium", "high", "extreme")
"""As in ``diffusion/noise_bands.py``, which imports torch."""
LOSSES = ("loss", *(f"loss_at_{band}_noise" for band in NOISE_BANDS))
RAW_LOSSES = tuple(loss.replace("loss", "loss_raw") for loss in LOSSES)
"""Of the weights that are trained, where an average is validated as well."""
VALIDATION_LOSSES = (*LOSSES, *RAW_LOSSES)
LOGGED_METRICS = (
    *(f"val/{loss}" for loss in VALIDATION_LOSSES),
    *(f"train/{loss}" for loss in LOSSES),
    "train/learning_rate",
)
"""The names by which runs log metrics; some runs have no average, or no noise level in one of the bands."""

Precision = Literal["auto", 32, "bf16", "fp16"]


class EmaSettings(Section):
    """``training.ema``: the exponential moving average of the weights, which makes the better samples."""

    enabled: bool = Field(description="Whether an average is kept.")
    decay: Momentum = Field(
        description="Share of the old average kept at each optimizer step; this one is validated and pictured."
    )
    warmup: bool = Field(
        default=True,
        description="Let the decay rise towards its value, so that the first weights are forgotten soon.",
    )
    further_decays: Annotated[tuple[Momentum, ...], Field(strict=False, max_length=32)] = Field(
        default=(),
        description="Decays of further averages, to choose one when sampling (`generation.sampling.ema_decay`); each "
        "costs the memory, and in checkpoints the space, of one copy of the weights.",
    )


class CheckpointingSettings(Section):
    """``training.checkpointing``: which states of the run are kept."""

    save_frequency: PositiveInt = Field(
        description="Epochs from one checkpoint to the next; the last epoch always has one."
    )
    save_best_only: bool = Field(
        description="Keep only the best and the last checkpoint; best by the validation metric."
    )
    save_optimizer: bool = Field(description="Include the optimizer's state, without which a run cannot be resumed.")
    keep_last: PositiveInt | None = Field(
        default=None,
        description="Checkpoints to keep beside the best: the newest, then those of every `save_frequency` epochs; "
        "`null` keeps all of these. Only files that the run wrote itself are ever removed.",
    )


class ValidationSettings(Section):
    """``training.validation``: the measure on images that training never saw."""

    enabled: bool = Field(description="Whether to validate.")
    frequency: PositiveInt = Field(description="Epochs from one validation to the next.")
    metric: str = Field(
        description="Logged metric that decides which checkpoint is best: `loss` or `loss_at_low_noise` of validation "
        "(the same as `val/loss`), `loss_raw` (of the weights without averaging), `train/loss` (mean of the epoch), "
        "`val/kid_efflite0` and so on of the evaluation (`evaluation=on`), or one that a class in `training.callbacks` "
        "logs."
    )
    mode: Literal["min", "max"] | None = Field(
        default=None,
        description="Whether lower (`min`) or higher (`max`) values of the metric are better. `null`: `max` for "
        "precision, recall, density, coverage, label agreement and Inception Score of the evaluation, `min` for all "
        "others.",
    )

    @model_validator(mode="before")
    @classmethod
    def _without_what_goes_without_saying(cls, given: Any) -> Any:
        """Let equal settings be equal, and have one hash, whether or not they say what the metric says."""
        if isinstance(given, Mapping) and isinstance(given.get("mode"), str) and isinstance(given.get("metric"), str):
            return {**given, "mode": None if given["mode"] == direction_of(given["metric"]) else given["mode"]}
        return given

    @property
    def direction(self) -> Direction:
        """``mode``, or what the metric says."""
        return self.mode or direction_of(self.metric)

    @property
    def logged_metric(self) -> str:
        """``metric`` by the name under which it is logged."""
        return f"val/{self.metric}" if self.metric in VALIDATION_LOSSES else self.metric


class VisualizationSettings(Section):
    """``training.visualization``: pictures sampled while training."""

    enabled: bool = Field(description="Whether to sample pictures.")
    interval: PositiveInt = Field(description="Epochs from one picture to the next.")
    num_samples: PositiveInt = Field(description="Images a picture; one row a class where there are classes.")
    guidance_scale: NonNegative = Field(
        description="Classifier-free guidance, `uncond + scale · (cond − uncond)`; 0 and 1 are the plain conditional "
        "model."
    )


class PerformanceSettings(Section):
    """``training.performance``: speed against precision and reproducibility."""

    use_amp: bool = Field(description="Mixed precision: `true` means `precision: auto`, where that is not given.")
    precision: Precision | None = Field(
        default=None,
        description="What the network computes in; weights stay 32. `auto`: bf16 where the device has it in hardware, "
        "else fp16 on NVIDIA GPUs, else 32. `null`: as `use_amp` says.",
    )
    use_tf32: bool = Field(description="TF32 matrix products on NVIDIA GPUs.")
    cudnn_benchmark: bool = Field(description="Let cuDNN try its kernels and keep the fastest.")
    compile_model: bool = Field(
        description="Compile the network with `torch.compile`: the first steps take longer, the others less. Where no "
        "compiler is found, the run goes on without."
    )
    gradient_checkpointing: bool = Field(
        default=False,
        description="Compute the activations of each block again for its gradient instead of keeping them: less "
        "memory, about a third more time, the same gradients.",
    )

    @property
    def wanted_precision(self) -> Precision:
        """``precision``, or what ``use_amp`` stands for where that is null."""
        return self.precision or ("auto" if self.use_amp else 32)


class WatchSettings(Section):
    """``training.watch``: what ends a run that goes wrong, and what it is warned of."""

    skip_non_finite: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="Optimizer steps in a row that may be left out because their loss or gradient is NaN or infinite; "
        "one more stops the run. With 0 the first one does.",
    )
    spike_factor: Annotated[float, Field(gt=1)] | None = Field(
        default=5.0,
        description="Warn of a loss that is so many times its running mean; `null` never does.",
    )


class ResumeSettings(Section):
    """``training.resume``: resuming from a checkpoint. What follows from settings that differ: docs/resuming.md."""

    enabled: bool = Field(description="Whether to resume from a checkpoint.")
    checkpoint: Literal["auto"] | PathText | None = Field(
        description="The checkpoint file or its run folder, or `auto`: the newest in `output.base_dir`, or a fresh "
        "start where there is none; required with `enabled: true`."
    )
    reset_optimizer: bool = Field(description="Start with a fresh optimizer state.")
    reset_scheduler: bool = Field(description="Start the learning-rate schedule anew.")
    allow_other_data: bool = Field(
        default=False,
        description="Go on with training images that are not those of the checkpoint; else they are refused.",
    )


class TrainingSettings(Section):
    """``training``: everything about the run that is neither model nor data."""

    epochs: PositiveInt = Field(description="Passes over the training images.")
    accumulate_batches: PositiveInt = Field(default=1, description="Batches whose gradients make one optimizer step.")
    log_interval: PositiveInt = Field(default=10, description="Optimizer steps between two lines of training metrics.")
    callbacks: Annotated[tuple[DottedPath, ...], Field(strict=False)] = Field(
        default=(),
        description="Dotted paths of your own Lightning callbacks, classes without arguments; what they log can be "
        "`training.validation.metric`.",
    )
    loss: LossSettings = Field(default_factory=LossSettings)
    optimizer: OptimizerSettings
    scheduler: SchedulerSettings
    ema: EmaSettings
    checkpointing: CheckpointingSettings
    validation: ValidationSettings
    visualization: VisualizationSettings
    performance: PerformanceSettings
    watch: WatchSettings = Field(default_factory=WatchSettings)
    resume: ResumeSettings

    def scheduler_options(self, epochs: int | None = None) -> dict[str, Any]:
        """The arguments given for the learning-rate schedule; ``T_max: auto`` is the number of epochs.

        Empty for a constant learning rate. Arguments left out take the default of the schedule's class.

        Args:
            epochs: That the schedule is for; all of the settings where None.
        """
        settings = self.scheduler
        if settings.type is None:
            return {}
        given = settings.model_dump(exclude={"type"})
        if given.get("T_max") == "auto":
            given["T_max"] = epochs or self.epochs
        if settings.type == "step":
            given.setdefault("step_size", DEFAULT_STEP_SIZE)  # optional here, and without a default in torch
        if settings.type == "plateau":
            given.setdefault("mode", self.validation.direction)
        return given
