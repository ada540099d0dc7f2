"""The ``training`` section: EMA, checkpoints, validation, performance, resuming."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from diffusion_lab.config.loss_section import LossSettings
from diffusion_lab.config.optimizer_section import Momentum, OptimizerSettings
from diffusion_lab.config.scheduler_section import DEFAULT_STEP_SIZE, SchedulerSettings
from diffusion_lab.metric_names import VALIDATION_LOSSES, Direction, direction_of
from diffusion_lab.typed_settings.section import Duration, NonNegative, PathText, PositiveInt, Section
from diffusion_lab.typed_settings.targets import Target

Precision = Literal["auto", 32, "bf16", "fp16"]


class EmaSettings(Section):
    """``training.ema``: the exponential moving average of the weights, which gives better samples."""

    enabled: bool = Field(description="Whether to keep an EMA.")
    decay: Momentum = Field(description="Decay per optimizer step; this EMA is used for validation and sample images.")
    warmup: bool = Field(
        default=True,
        description="Increase the decay gradually to its value, so that the initial weights are forgotten soon.",
    )
    further_decays: Annotated[tuple[Momentum, ...], Field(strict=False, max_length=32)] = Field(
        default=(),
        description="Decays of further EMAs to choose from when sampling (`generation.sampling.ema_decay`); each takes "
        "the memory, and in checkpoints the disk space, of one copy of the weights.",
    )


class CheckpointingSettings(Section):
    """``training.checkpointing``: which checkpoints are saved and kept."""

    save_frequency: PositiveInt = Field(description="Epochs between checkpoints; the last epoch always saves one.")
    save_best_only: bool = Field(
        description="Keep only the best and the last checkpoint; best by the validation metric."
    )
    save_optimizer: bool = Field(description="Save the optimizer state, without which a run cannot be resumed.")
    keep_last: PositiveInt | None = Field(
        default=None,
        description="Number of checkpoints to keep besides the best: the newest, then those of every `save_frequency` "
        "epochs; `null` keeps all. Only files that the run wrote itself are ever deleted.",
    )


class ValidationSettings(Section):
    """``training.validation``: evaluation of the loss on images not used for training."""

    enabled: bool = Field(description="Whether to validate.")
    frequency: PositiveInt = Field(description="Epochs between validations.")
    metric: str = Field(
        description="Logged metric that decides which checkpoint is best: `loss` or `loss_at_low_noise` of validation "
        "(the same as `val/loss`), `loss_raw` (of the raw weights), `train/loss` (mean of the epoch), "
        "`val/kid_efflite0` and other metrics of the evaluation (`evaluation=on`), or one that a class in "
        "`training.callbacks` logs."
    )
    mode: Literal["min", "max"] | None = Field(
        default=None,
        description="Whether lower (`min`) or higher (`max`) values of the metric are better. `null`: `max` for "
        "precision, recall, density, coverage, label agreement and Inception Score of the evaluation, `min` for all "
        "others.",
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_default_mode(cls, values: Any) -> Any:
        """Normalize an explicit ``mode`` that is the metric's default, so that equal settings have one hash."""
        if (
            isinstance(values, Mapping)
            and isinstance(values.get("mode"), str)
            and isinstance(values.get("metric"), str)
        ):
            return {**values, "mode": None if values["mode"] == direction_of(values["metric"]) else values["mode"]}
        return values

    @property
    def direction(self) -> Direction:
        """``mode``, or what the metric says."""
        return self.mode or direction_of(self.metric)

    @property
    def logged_metric(self) -> str:
        """Name under which ``metric`` is logged."""
        return f"val/{self.metric}" if self.metric in VALIDATION_LOSSES else self.metric


class VisualizationSettings(Section):
    """``training.visualization``: sample images during training."""

    enabled: bool = Field(description="Whether to sample images during training.")
    interval: PositiveInt = Field(description="Epochs between sample images.")
    num_samples: PositiveInt = Field(description="Images per grid; one row per class if the model has classes.")
    guidance_scale: NonNegative = Field(
        description="Classifier-free guidance, `uncond + scale · (cond − uncond)`; 0 and 1 are the plain conditional "
        "model."
    )


class PerformanceSettings(Section):
    """``training.performance``: trade-offs of speed against precision and reproducibility."""

    use_amp: bool = Field(description="Mixed precision: `true` means `precision: auto` unless that is set.")
    precision: Precision | None = Field(
        default=None,
        description="Precision of the network's computations; weights stay in float32. `auto`: bf16 if the hardware "
        "supports it, else fp16 on NVIDIA GPUs, else 32. `null`: set by `use_amp`.",
    )
    use_tf32: bool = Field(description="TF32 matrix products on NVIDIA GPUs.")
    cudnn_benchmark: bool = Field(description="Let cuDNN benchmark its kernels and use the fastest.")
    compile_model: bool = Field(
        description="Compile the network with `torch.compile`: the first steps are slower, later ones faster. Without "
        "a compiler, the run continues uncompiled."
    )
    gradient_checkpointing: bool = Field(
        default=False,
        description="Recompute the activations of each block in the backward pass instead of storing them: less "
        "memory, about a third more time, the same gradients.",
    )

    @property
    def requested_precision(self) -> Precision:
        """``precision``, or the meaning of ``use_amp`` if that is null."""
        return self.precision or ("auto" if self.use_amp else 32)


class WatchSettings(Section):
    """``training.watch``: limits on non-finite steps, and warnings about loss spikes."""

    skip_non_finite: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="Consecutive optimizer steps that may be skipped because their loss or gradient is NaN or "
        "infinite; one more stops the run. With 0, the first one does.",
    )
    spike_factor: Annotated[float, Field(gt=1)] | None = Field(
        default=5.0,
        description="Warn about a loss this many times its running mean; `null` never warns.",
    )


class ResumeSettings(Section):
    """``training.resume``: resuming from a checkpoint. See docs/resuming.md for changed settings."""

    enabled: bool = Field(description="Whether to resume from a checkpoint.")
    checkpoint: Literal["auto"] | PathText | None = Field(
        description="The checkpoint file or its run folder, or `auto`: the newest in `output.base_dir`, or a fresh "
        "start where there is none; required with `enabled: true`."
    )
    reset_optimizer: bool = Field(description="Start with a fresh optimizer state.")
    reset_scheduler: bool = Field(description="Restart the learning-rate schedule.")
    allow_other_data: bool = Field(
        default=False,
        description="Continue with training images other than those of the checkpoint, which are refused otherwise.",
    )


class TrainingSettings(Section):
    """``training``: everything about the run that is neither model nor data."""

    epochs: PositiveInt = Field(description="Passes over the training images.")
    accumulate_batches: PositiveInt = Field(default=1, description="Batches accumulated per optimizer step.")
    log_interval: PositiveInt = Field(default=10, description="Optimizer steps between logged training metrics.")
    max_steps: PositiveInt | None = Field(
        default=None,
        description="Optimizer steps after which the run is complete, if it does not reach `epochs` before; the "
        "learning-rate schedule ends with them. `null`: no limit.",
    )
    max_time: Duration | None = Field(
        default=None,
        description="Training time after which the run is complete, `DD:HH:MM:SS` (days, hours, minutes, seconds), in "
        "quotes; in a resumed run, the time of the earlier parts with such a limit counts. `null`: no limit.",
    )
    overfit_batches: PositiveInt | None = Field(
        default=None,
        description="Train on this many fixed batches, in the same order in each epoch and without augmentation, and "
        "validate on as many: to see whether a model can learn them by heart. `null`: train on all images.",
    )
    callbacks: Annotated[tuple[Annotated[str | dict[str, Any], Target()], ...], Field(strict=False)] = Field(
        default=(),
        description="Lightning callbacks, custom ones and Lightning's own: dotted paths of classes, or mappings of "
        "`_target_` (the path) and arguments. Metrics that they log can be `training.validation.metric`.",
    )
    profiler: Annotated[str | dict[str, Any], Target("simple", "advanced", "pytorch")] | None = Field(
        default=None,
        description="Lightning profiler: `simple` (time per hook), `advanced` (per function), `pytorch` (per "
        "operator), the dotted path of a class, or a mapping of `_target_` (the path) and arguments. It writes to the "
        "run folder's `logs`.",
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
        """Return the arguments that are set for the learning-rate schedule; ``T_max: auto`` becomes the epochs.

        Empty for a constant learning rate. Omitted arguments have the default of the schedule's class.

        Args:
            epochs: Length of the schedule; that of the settings if None.
        """
        settings = self.scheduler
        if settings.type is None:
            return {}
        options = settings.options
        if options.get("T_max") == "auto":
            options["T_max"] = epochs or self.epochs
        if settings.type == "step":
            options.setdefault("step_size", DEFAULT_STEP_SIZE)  # optional here, required by torch
        if settings.type == "plateau":
            options.setdefault("mode", self.validation.direction)
        return options
