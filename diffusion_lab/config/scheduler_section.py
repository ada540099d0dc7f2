"""The ``training.scheduler`` section: the learning-rate schedule and its options."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from diffusion_lab.typed_settings.choice import AnyClass, ChoiceSettings, Options
from diffusion_lab.typed_settings.section import NameOrPath, NonNegative, PositiveInt

Count = Annotated[int, Field(ge=0)]
StartEpoch = Annotated[
    Annotated[int, Field(ge=-1)] | None,
    Field(
        description="Last epoch of the schedule that counts as completed at its start; default -1, from the "
        "beginning. A resumed run restores its position without it.",
    ),
]

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
OURS = "diffusion_lab.training.lr_schedules"


class ConstantOptions(Options):
    """Keys of the default tree, ready for ``type: cosine``; none of them is read."""

    T_max: PositiveInt | Literal["auto"] | None = Field(default=None, description="Not read; ready for `type: cosine`.")
    eta_min: NonNegative | None = Field(default=None, description="Not read; ready for `type: cosine`.")


class CosineOptions(Options):
    """Cosine annealing, once per epoch."""

    CLASS = f"{OURS}.CosineLR"

    T_max: PositiveInt | Literal["auto"] = Field(
        description="Epochs until the learning rate reaches `eta_min`; `auto` is `training.epochs`."
    )
    eta_min: NonNegative = Field(description="Final learning rate.")
    last_epoch: StartEpoch = None


class StepOptions(Options):
    """A drop of the learning rate at regular intervals."""

    CLASS = f"{OURS}.StepDecayLR"

    step_size: PositiveInt | None = Field(default=None, description="Epochs between two drops; default 30.")
    gamma: Annotated[float, Field(gt=0)] | None = Field(default=None, description="Factor of each drop; default 0.1.")
    last_epoch: StartEpoch = None


class PlateauOptions(Options):
    """A drop of the learning rate when the validation metric stops improving."""

    CLASS = "torch.optim.lr_scheduler.ReduceLROnPlateau"

    mode: Literal["min", "max"] | None = Field(
        default=None,
        description="Whether the monitored metric should decrease (`min`) or increase (`max`); `null` is "
        "`training.validation.mode`.",
    )
    factor: Annotated[float, Field(gt=0, lt=1)] | None = Field(default=None, description="Factor of each drop.")
    patience: Count | None = Field(default=None, description="Validations without improvement before a drop.")
    threshold: NonNegative | None = Field(
        default=None,
        description="Smallest change of the metric that counts as an improvement; default 1e-4.",
    )
    threshold_mode: Literal["rel", "abs"] | None = Field(
        default=None, description="Whether `threshold` is relative to the best value (`rel`) or absolute."
    )
    cooldown: Count | None = Field(default=None, description="Validations after a drop that are not counted.")
    min_lr: NonNegative | None = Field(default=None, description="Lower bound of the learning rate.")
    eps: NonNegative | None = Field(
        default=None, description="Smallest change of the learning rate that is applied; default 1e-8."
    )


class WarmupCosineOptions(Options):
    """Linear warmup, then cosine annealing, once per optimizer step."""

    CLASS = f"{OURS}.WarmupCosineLR"

    warmup_steps: Count | None = Field(
        default=None, description="Optimizer steps of linear warmup from zero to the learning rate; default 0."
    )
    eta_min: NonNegative | None = Field(default=None, description="Final learning rate; default 0.")


SCHEDULES: dict[str | None, type[Options] | str] = {
    None: ConstantOptions,
    "cosine": CosineOptions,
    "step": StepOptions,
    "plateau": PlateauOptions,
    "warmup_cosine": WarmupCosineOptions,
}
"""Names that ``training.scheduler.type`` accepts: options, or the path of a class whose signature declares them."""


class SchedulerSettings(ChoiceSettings):
    """``training.scheduler``: the learning-rate schedule."""

    KEY = "training.scheduler"
    NAMED = SCHEDULES
    FILE = "scheduler={}"
    FIRST = "the optimizer"
    FIRST_NAME = "optimizer"
    PASSED: ClassVar[dict[str, str]] = {"total_steps": "training.epochs"}

    type: Annotated[str, NameOrPath(*filter(None, SCHEDULES), also=TORCH_NAMES, paths=TORCH_SCHEDULERS)] | None = Field(
        description="The schedule; `null` is a constant learning rate, a dotted path names a custom class or another "
        "of torch. `CosineAnnealingLR`, `StepLR`, `ReduceLROnPlateau` are accepted as `cosine`, `step`, `plateau`."
    )

    @classmethod
    def passed_to(cls, called: AnyClass) -> list[str]:
        """Return ``total_steps`` for a class that is stepped once per optimizer step."""
        return list(cls.PASSED) if getattr(called, "by_step", False) else []
