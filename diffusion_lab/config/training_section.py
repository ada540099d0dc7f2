"""The ``training`` section: optimizer, schedule, averaging, and what happens every so many epochs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from diffusion_lab.config.evaluated_metrics import Direction, direction_of
from diffusion_lab.config.loss_section import LossSettings
from diffusion_lab.config.section import (
    DottedPath,
    NameOrPath,
    NonNegative,
    PathText,
    PluggableSection,
    PositiveInt,
    Section,
)

OF_EVERY_ADAM = ("eps", "amsgrad", "foreach", "maximize", "capturable", "differentiable", "fused")
OPTIMIZER_OPTIONS: dict[str, tuple[str, ...]] = {
    "adam": (*OF_EVERY_ADAM, "decoupled_weight_decay"),
    "adamw": OF_EVERY_ADAM,
}
"""Arguments of each named class that are left to it unless they are given: all that torch has beside the V2 keys."""
TORCH_OPTIMIZERS = tuple(
    f"torch.optim.{name}"
    for name in ("SGD", "RMSprop", "RAdam", "NAdam", "Adamax", "Adagrad", "Adadelta", "Adafactor", "ASGD")
)
"""Those that are taken by their dotted paths."""
OPTIMIZER_TYPES = tuple(OPTIMIZER_OPTIONS)
ALL_OPTIMIZER_OPTIONS = tuple(dict.fromkeys(name for names in OPTIMIZER_OPTIONS.values() for name in names))
SCHEDULER_OPTIONS: dict[str | None, tuple[str, ...]] = {
    None: ("T_max", "eta_min"),  # unread, but part of the default tree, ready for type: cosine
    "cosine": ("T_max", "eta_min", "last_epoch"),
    "step": ("step_size", "gamma", "last_epoch"),
    "plateau": ("mode", "factor", "patience", "threshold", "threshold_mode", "cooldown", "min_lr", "eps"),
    "warmup_cosine": ("warmup_steps", "eta_min"),
}
"""Keys that each type of learning-rate schedule reads."""
SCHEDULER_TYPES = tuple(name for name in SCHEDULER_OPTIONS if name is not None)
ALL_SCHEDULER_OPTIONS = tuple(dict.fromkeys(name for names in SCHEDULER_OPTIONS.values() for name in names))

TORCH_NAMES = {"CosineAnnealingLR": "cosine", "StepLR": "step", "ReduceLROnPlateau": "plateau"}
"""What torch calls the types of learning-rate schedules."""
TORCH_SCHEDULERS = tuple(
    f"torch.optim.lr_scheduler.{name}"
    for name in (
        "ExponentialLR",
        "MultiStepLR",
        "LinearLR",
        "ConstantLR",
        "PolynomialLR",
        "CosineAnnealingWarmRestarts",
        "CyclicLR",
        "OneCycleLR",
    )
)
"""Those that are taken by their dotted paths."""

DEFAULT_STEP_SIZE = 30

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
Momentum = Annotated[float, Field(ge=0, lt=1)]


def _is_false(value: bool) -> bool:
    if value:
        raise ValueError("must be false: no training here differentiates through an optimizer step")
    return value


class OptimizerSettings(PluggableSection):
    """``training.optimizer``: how a gradient becomes a step."""

    type: Annotated[str, NameOrPath(*OPTIMIZER_TYPES, paths=TORCH_OPTIMIZERS)] = Field(
        description="The method; a dotted path names your own class, or another of torch, such as `torch.optim.SGD`."
    )
    learning_rate: float = Field(gt=0, description="Step size; its peak where a scheduler warms up.")
    weight_decay: NonNegative = Field(description="Pull of the weights towards zero.")
    betas: Annotated[tuple[Momentum, Momentum], Field(strict=False)] = Field(
        description="Decay of the running averages of gradient and squared gradient."
    )
    gradient_clip_norm: Annotated[float, Field(gt=0)] | None = Field(
        description="Largest total norm of all gradients; `null` leaves them as they are."
    )
    eps: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="Added to the denominator for stability; `null` takes the class's own default.",
    )
    amsgrad: bool | None = Field(default=None, description="The AMSGrad variant; `null` takes the class's own default.")
    foreach: bool | None = Field(
        default=None,
        description="One kernel for the same operation on all weights, where `fused` is not used; `null` leaves it to "
        "torch.",
    )
    maximize: bool | None = Field(default=None, description="Climb instead of descend: for a loss that is a score.")
    capturable: bool | None = Field(
        default=None, description="Keep the state on the GPU, so that the step can be part of a CUDA graph; GPUs only."
    )
    differentiable: Annotated[bool, AfterValidator(_is_false), Field(json_schema_extra={"const": False})] | None = (
        Field(default=None, description="Must be `false`: no training here differentiates through an optimizer step.")
    )
    fused: bool | None = Field(
        default=None,
        description="One kernel for the whole step; `null` takes it where there is one, unless `foreach` is true.",
    )
    decoupled_weight_decay: bool | None = Field(
        default=None, description="`adam`: keep the weight decay apart from the gradient, as `adamw` does."
    )

    @model_serializer(mode="wrap")
    def _without_unset_options(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        tree: dict[str, Any] = serialize(self)
        return {key: value for key, value in tree.items() if value is not None or key not in ALL_OPTIMIZER_OPTIONS}

    @property
    def options(self) -> dict[str, Any]:
        """Further arguments of the optimizer's class: those given, beyond the V2 keys."""
        known = {name: getattr(self, name) for name in ALL_OPTIMIZER_OPTIONS}
        return {name: value for name, value in known.items() if value is not None} | self.extra_options


class SchedulerSettings(PluggableSection):
    """``training.scheduler``: how the learning rate changes.

    Which type reads what: SCHEDULER_OPTIONS.
    """

    type: Annotated[str, NameOrPath(*SCHEDULER_TYPES, also=TORCH_NAMES, paths=TORCH_SCHEDULERS)] | None = Field(
        description="The curve; `null` is a constant learning rate, a dotted path names your own class or another of "
        "torch. `CosineAnnealingLR`, `StepLR` and `ReduceLROnPlateau` are read as `cosine`, `step` and `plateau`."
    )
    T_max: PositiveInt | Literal["auto"] | None = Field(
        default=None, description="`cosine`: epochs until the learning rate is down; `auto` is `training.epochs`."
    )
    eta_min: NonNegative | None = Field(
        default=None, description="`cosine`, `warmup_cosine`: learning rate at the end."
    )
    warmup_steps: Annotated[int, Field(ge=0)] | None = Field(
        default=None,
        description="`warmup_cosine`: optimizer steps of linear rise from zero to the learning rate.",
    )
    step_size: PositiveInt | None = Field(
        default=None, description="`step`: epochs from one drop to the next; left out, 30."
    )
    gamma: Annotated[float, Field(gt=0)] | None = Field(default=None, description="`step`: factor of each drop.")
    mode: Literal["min", "max"] | None = Field(
        default=None,
        description="`plateau`: whether the watched metric should fall (`min`) or rise (`max`); `null` is as "
        "`training.validation.mode`.",
    )
    factor: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None, description="`plateau`: factor of each drop."
    )
    patience: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="`plateau`: validations without progress that are tolerated before a drop."
    )
    threshold: NonNegative | None = Field(
        default=None, description="`plateau`: least change of the metric that counts as progress; left out, 1e-4."
    )
    threshold_mode: Literal["rel", "abs"] | None = Field(
        default=None, description="`plateau`: whether `threshold` is a share of the best value (`rel`) or a difference."
    )
    cooldown: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="`plateau`: validations after a drop in which none is counted."
    )
    min_lr: NonNegative | None = Field(default=None, description="`plateau`: learning rate below which it never drops.")
    eps: NonNegative | None = Field(
        default=None, description="`plateau`: least change of the learning rate that is made; left out, 1e-8."
    )
    last_epoch: Annotated[int, Field(ge=-1)] | None = Field(
        default=None,
        description="`cosine`, `step`: epoch of the curve that counts as done at the start of the schedule; left out, "
        "-1, the schedule starts at its beginning. A resumed run knows its place without it.",
    )

    @model_serializer(mode="wrap")
    def _without_unset_options(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        tree: dict[str, Any] = serialize(self)
        kept = {"type", *self.extra_options}  # null may mean something to a class of the user's own
        return {key: value for key, value in tree.items() if value is not None or key in kept}


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
