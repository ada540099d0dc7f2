"""The ``training.scheduler`` section: the learning-rate schedule and its options."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from diffusion_lab.config.section import NameOrPath, NonNegative, PluggableSection, PositiveInt

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
"""Names of the types in torch."""
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
"""Schedules of torch that are selected by their dotted path."""

DEFAULT_STEP_SIZE = 30


class SchedulerSettings(PluggableSection):
    """``training.scheduler``: the learning-rate schedule.

    SCHEDULER_OPTIONS lists the keys that each type reads.
    """

    type: Annotated[str, NameOrPath(*SCHEDULER_TYPES, also=TORCH_NAMES, paths=TORCH_SCHEDULERS)] | None = Field(
        description="The schedule; `null` is a constant learning rate, a dotted path names a custom class or another "
        "of torch. `CosineAnnealingLR`, `StepLR`, `ReduceLROnPlateau` are accepted as `cosine`, `step`, `plateau`."
    )
    T_max: PositiveInt | Literal["auto"] | None = Field(
        default=None,
        description="`cosine`: epochs until the learning rate reaches `eta_min`; `auto` is `training.epochs`.",
    )
    eta_min: NonNegative | None = Field(default=None, description="`cosine`, `warmup_cosine`: final learning rate.")
    warmup_steps: Annotated[int, Field(ge=0)] | None = Field(
        default=None,
        description="`warmup_cosine`: optimizer steps of linear warmup from zero to the learning rate.",
    )
    step_size: PositiveInt | None = Field(default=None, description="`step`: epochs between two drops; default 30.")
    gamma: Annotated[float, Field(gt=0)] | None = Field(default=None, description="`step`: factor of each drop.")
    mode: Literal["min", "max"] | None = Field(
        default=None,
        description="`plateau`: whether the monitored metric should decrease (`min`) or increase (`max`); `null` is "
        "`training.validation.mode`.",
    )
    factor: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None, description="`plateau`: factor of each drop."
    )
    patience: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="`plateau`: validations without improvement before a drop."
    )
    threshold: NonNegative | None = Field(
        default=None,
        description="`plateau`: smallest change of the metric that counts as an improvement; default 1e-4.",
    )
    threshold_mode: Literal["rel", "abs"] | None = Field(
        default=None, description="`plateau`: whether `threshold` is relative to the best value (`rel`) or absolute."
    )
    cooldown: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="`plateau`: validations after a drop that are not counted."
    )
    min_lr: NonNegative | None = Field(default=None, description="`plateau`: lower bound of the learning rate.")
    eps: NonNegative | None = Field(
        default=None, description="`plateau`: smallest change of the learning rate that is applied; default 1e-8."
    )
    last_epoch: Annotated[int, Field(ge=-1)] | None = Field(
        default=None,
        description="`cosine`, `step`: last epoch of the schedule that counts as completed at its start; default -1, "
        "from the beginning. A resumed run restores its position without it.",
    )

    @model_serializer(mode="wrap")
    def _without_unset_options(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        tree: dict[str, Any] = serialize(self)
        always_written = {"type", *self.extra_options}  # null may mean something to a custom class
        return {key: value for key, value in tree.items() if value is not None or key in always_written}
