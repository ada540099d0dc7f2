"""The ``training.scheduler`` section: which learning-rate schedule, and its options."""

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
