"""The ``training.optimizer`` section: the method, its step size and its further options."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from diffusion_lab.typed_settings.choice import ChoiceSettings, Options
from diffusion_lab.typed_settings.section import NameOrPath, NonNegative

TORCH_OPTIMIZERS = tuple(
    f"torch.optim.{name}"
    for name in ("SGD", "RMSprop", "RAdam", "NAdam", "Adamax", "Adagrad", "Adadelta", "Adafactor", "ASGD")
)
"""Optimizers of torch that are selected by their dotted path."""

Momentum = Annotated[float, Field(ge=0, lt=1)]
"""Decay of a running average per step."""


def _is_false(value: bool) -> bool:
    if value:
        raise ValueError("must be false: training never differentiates through an optimizer step")
    return value


class AdamWOptions(Options):
    """Arguments of AdamW besides the V2 keys; the default of the class applies to those that are null."""

    CLASS = "torch.optim.AdamW"

    eps: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="Added to the denominator for stability; `null` uses the default of the class.",
    )
    amsgrad: bool | None = Field(default=None, description="The AMSGrad variant; `null` uses the default of the class.")
    foreach: bool | None = Field(
        default=None,
        description="Multi-tensor implementation, unless `fused` is used; `null` leaves the choice to torch.",
    )
    maximize: bool | None = Field(default=None, description="Maximize the loss instead of minimizing it.")
    capturable: bool | None = Field(
        default=None, description="Keep the state on the GPU, so that the step can be part of a CUDA graph; GPUs only."
    )
    differentiable: Annotated[bool, AfterValidator(_is_false), Field(json_schema_extra={"const": False})] | None = (
        Field(default=None, description="Must be `false`: training never differentiates through an optimizer step.")
    )
    fused: bool | None = Field(
        default=None,
        description="One kernel for the whole step; `null` uses it where available, unless `foreach` is true.",
    )


class AdamOptions(AdamWOptions):
    """Arguments of Adam besides the V2 keys; the default of the class applies to those that are null."""

    CLASS = "torch.optim.Adam"

    decoupled_weight_decay: bool | None = Field(
        default=None, description="Decouple the weight decay from the gradient, as `adamw` does."
    )


OPTIMIZERS: dict[str, type[Options] | str] = {
    "adam": AdamOptions,
    "adamw": AdamWOptions,
}
"""Names that ``training.optimizer.type`` accepts: options, or the path of a class whose signature declares them."""


class OptimizerSettings(ChoiceSettings):
    """``training.optimizer``: the optimizer."""

    KEY = "training.optimizer"
    NAMED = OPTIMIZERS
    FIRST = "the parameters"
    FIRST_NAME = "params"
    PASSED: ClassVar[dict[str, str]] = {
        "lr": "training.optimizer.learning_rate",
        "weight_decay": "training.optimizer.weight_decay",
        "betas": "training.optimizer.betas",
    }
    REQUIRED = ("lr", "weight_decay")
    IF_NAMED = ("betas",)

    type: Annotated[str, NameOrPath(*OPTIMIZERS, paths=TORCH_OPTIMIZERS)] = Field(
        description="The optimizer; a dotted path names a custom class, or another of torch, such as `torch.optim.SGD`."
    )
    learning_rate: float = Field(gt=0, description="Learning rate; with warmup, its peak.")
    weight_decay: NonNegative = Field(description="Weight decay coefficient.")
    betas: Annotated[tuple[Momentum, Momentum], Field(strict=False)] = Field(
        description="Decay of the running averages of gradient and squared gradient."
    )
    gradient_clip_norm: Annotated[float, Field(gt=0)] | None = Field(
        description="Maximum total norm of the gradients; `null` does not clip."
    )
