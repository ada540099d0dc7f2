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
"""Arguments of each named class besides the V2 keys; the class's own default applies unless they are set."""
TORCH_OPTIMIZERS = tuple(
    f"torch.optim.{name}"
    for name in ("SGD", "RMSprop", "RAdam", "NAdam", "Adamax", "Adagrad", "Adadelta", "Adafactor", "ASGD")
)
"""Optimizers of torch that are selected by their dotted path."""
OPTIMIZER_TYPES = tuple(OPTIMIZER_OPTIONS)
ALL_OPTIMIZER_OPTIONS = tuple(dict.fromkeys(name for names in OPTIMIZER_OPTIONS.values() for name in names))

Momentum = Annotated[float, Field(ge=0, lt=1)]
"""Decay of a running average per step."""


def _is_false(value: bool) -> bool:
    if value:
        raise ValueError("must be false: training never differentiates through an optimizer step")
    return value


class OptimizerSettings(PluggableSection):
    """``training.optimizer``: the optimizer."""

    type: Annotated[str, NameOrPath(*OPTIMIZER_TYPES, paths=TORCH_OPTIMIZERS)] = Field(
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
    decoupled_weight_decay: bool | None = Field(
        default=None, description="`adam`: decouple the weight decay from the gradient, as `adamw` does."
    )

    @model_serializer(mode="wrap")
    def _without_unset_options(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        tree: dict[str, Any] = serialize(self)
        return {key: value for key, value in tree.items() if value is not None or key not in ALL_OPTIMIZER_OPTIONS}

    @property
    def options(self) -> dict[str, Any]:
        """Further arguments of the optimizer class that were set, besides the V2 keys."""
        options = {name: getattr(self, name) for name in ALL_OPTIMIZER_OPTIONS}
        return {name: value for name, value in options.items() if value is not None} | self.extra_options
