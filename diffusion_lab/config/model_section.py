"""The ``model`` section: the network, the diffusion process, and the conditioning."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field

from diffusion_lab.diffusion.process_options import ContinuousCosineOptions, DiscreteOptions, EDMOptions, FlowOptions
from diffusion_lab.networks.options import DiTOptions, UNetOptions
from diffusion_lab.typed_settings.choice import ChoiceSettings, Options
from diffusion_lab.typed_settings.section import NameOrPath, PositiveInt, Probability, Section, or_auto


def _is_no_bool(value: object) -> object:
    if isinstance(value, bool):  # a Literal takes True for 1
        raise ValueError("must be 1, 3 or 4")
    return value


NETWORKS: dict[str, type[Options] | str] = {
    "unet": UNetOptions,
    "dit": DiTOptions,
}
"""Names that ``model.architecture.type`` accepts: options, or the path of a class whose signature declares them."""


class ArchitectureSettings(ChoiceSettings):
    """``model.architecture``: the network. The size and channels of the data follow from here."""

    KEY = "model.architecture"
    NAMED = NETWORKS
    FILE = "model={0}_tiny or another {0}"
    PASSED: ClassVar[dict[str, str]] = {
        "image_size": "model.architecture.image_size",
        "in_channels": "model.architecture.in_channels",
        "num_classes": "model.conditioning.num_classes",
    }
    IF_NAMED = ("image_size",)
    ONLY_TRAINING = False
    DROPS_LEFTOVERS = True

    type: Annotated[str, NameOrPath(*NETWORKS)] = Field(
        default="unet",
        description="The network: convolutions (`unet`), a transformer (`dit`); a dotted path names a custom class.",
    )
    image_size: PositiveInt = Field(
        json_schema_extra=or_auto,
        description="Height and width of the images in pixels; divisible by `patch_size`, for `unet` times "
        "2^(stages−1). `auto` with `data.type: image_folder`: the median short side of the images, at most 64; the run "
        "records the number.",
    )
    in_channels: Annotated[Literal[1, 3, 4], BeforeValidator(_is_no_bool)] = Field(
        json_schema_extra=or_auto,
        description="Image channels: 1 grayscale, 3 RGB, 4 RGBA. `auto` with `data.type: image_folder`: 1 if all "
        "images are grayscale, else 3.",
    )

    @classmethod
    def translate_old_keys(cls, section: dict[str, Any]) -> None:
        """Replace the keys of earlier versions, in place."""
        DiTOptions.replace_unet_keys(section)


PROCESSES: dict[str, type[Options] | str] = {
    "discrete": DiscreteOptions,
    "continuous_cosine": ContinuousCosineOptions,
    "edm": EDMOptions,
    "flow": FlowOptions,
}
"""Names that ``model.diffusion.type`` accepts: options, or the path of a class whose signature declares them."""


class DiffusionSettings(ChoiceSettings):
    """``model.diffusion``: the noise process and the prediction target of the network."""

    KEY = "model.diffusion"
    NAMED = PROCESSES
    ONLY_TRAINING = False
    DROPS_LEFTOVERS = True

    type: Annotated[str, NameOrPath(*PROCESSES)] = Field(
        default="discrete",
        description="The noise process: discrete as in DDPM, or continuous; a dotted path names a custom class.",
    )
    num_timesteps: int = Field(
        ge=1,
        le=1_000_000,
        description="`discrete`: number of timesteps; float32 can hardly distinguish more than the maximum.",
    )
    beta_schedule: Literal["linear", "cosine", "quadratic", "sigmoid"] = Field(
        description="`discrete`: schedule of the noise variance over the timesteps."
    )
    beta_start: float = Field(
        gt=0,
        lt=1,
        description="`discrete`: noise variance of the first step, less than `beta_end`; `cosine` uses neither.",
    )
    beta_end: float = Field(
        gt=0,
        lt=1,
        description="`discrete`: noise variance of the last step; for T steps, scale it by 1000 / T.",
    )
    prediction: Literal["epsilon", "x0", "v", "flow", "edm"] = Field(
        default="epsilon",
        description="Prediction target of the network: the noise (`epsilon`), the clean image (`x0`), the velocity "
        "(`v`), noise minus image (`flow`), or EDM's target, which has unit variance (`edm`). In less than 32 bits `v` "
        "is more precise than `epsilon` near pure noise.",
    )
    sigma_data: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        default="auto",
        description="`prediction: edm`: standard deviation of the pixels; `auto` measures it when training.",
    )

    @property
    def is_prediction_set(self) -> bool:
        """Return whether ``prediction`` was set explicitly, not left at a default."""
        return "prediction" in self.model_fields_set

    def with_default_prediction(self) -> Self:
        """Return the same settings with ``prediction`` marked as a default."""
        settings = self.model_copy()
        settings.model_fields_set.discard("prediction")
        return settings


class ConditioningSettings(Section):
    """``model.conditioning``: conditioning of the images."""

    type: Literal["class"] | None = Field(description="`class`: images have labels; `null`: unconditional.")
    num_classes: PositiveInt | Literal["auto"] | None = Field(
        description="Number of classes; required with `type: class`. `auto` counts those of the training images; the "
        "run and its checkpoints record it."
    )
    class_dropout_prob: Probability = Field(
        description="Fraction of training labels dropped, which trains the unconditional model for guidance."
    )

    @property
    def classes(self) -> int | None:
        """The number of classes of a class-conditional model, None for an unconditional one.

        Raises:
            ValueError: The classes have not been counted yet.
        """
        if self.type != "class":
            return None
        if self.num_classes == "auto":
            raise ValueError(
                "model.conditioning.num_classes must be a number here, got 'auto', which only training images resolve"
            )
        return self.num_classes


class ModelSettings(Section):
    """``model``: everything needed to sample from a checkpoint."""

    architecture: ArchitectureSettings
    diffusion: DiffusionSettings
    conditioning: ConditioningSettings


class ConditioningOfCheckpoint(ConditioningSettings):
    """``model.conditioning`` for a checkpoint of another program, which may contain the classes itself."""

    type: Literal["class"] | None = Field(
        default=None, description="`class`: images have labels; `null`: as in the checkpoint."
    )
    num_classes: PositiveInt | Literal["auto"] | None = Field(
        default="auto", description="Number of classes; `auto` and `null`: as in the checkpoint."
    )
    class_dropout_prob: Probability = Field(
        default=0.1,
        description="Fraction of training labels that was dropped; 0 if the model was not trained for guidance.",
    )


class ModelOfCheckpoint(ModelSettings):
    """``model`` for a checkpoint of another program, which does not contain its architecture."""

    conditioning: ConditioningOfCheckpoint = Field(default_factory=ConditioningOfCheckpoint)
