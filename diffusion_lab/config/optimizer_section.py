"""The ``training.optimizer`` section: the method, its step size and its further options."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer

from diffusion_lab.config.section import NameOrPath, NonNegative, PluggableSection

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

Momentum = Annotated[float, Field(ge=0, lt=1)]
"""How much of a running average stays at each step."""


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
