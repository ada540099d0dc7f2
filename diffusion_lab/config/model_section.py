"""The ``model`` section: the network, the diffusion process, and the conditioning."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer

from diffusion_lab.config.section import NameOrPath, PluggableSection, PositiveInt, Probability, Section

ARCHITECTURE_TYPES = ("unet", "dit")
PROCESS_OPTIONS = {
    "discrete": ("zero_terminal_snr",),
    "continuous_cosine": ("noise_shift",),
    "edm": ("sigma_min", "sigma_max"),
    "flow": ("noise_shift",),
}
"""Keys of ``model.diffusion``, beyond those of the V2 format, that each type of noise process reads."""


def _fits_the_groups(channels: int) -> int:
    if channels > 32 and channels % 8:
        raise ValueError("must be a multiple of 8 above 32, so that group normalisation can divide it")
    return channels


def _is_no_bool(value: object) -> object:
    if isinstance(value, bool):  # a Literal takes True for 1
        raise ValueError("must be 1, 3 or 4")
    return value


def _or_auto(schema: dict[str, Any]) -> None:
    """Let editors accept ``auto``, replaced by a number before this class validates it.

    See auto_values.py.
    """
    number = {key: schema.pop(key) for key in ("type", "minimum", "enum") if key in schema}
    schema["anyOf"] = [number, {"const": "auto", "type": "string"}]


class ArchitectureSettings(PluggableSection):
    """``model.architecture``: the network. The size and channels of the data follow from here."""

    type: Annotated[str, NameOrPath(*ARCHITECTURE_TYPES)] = Field(
        default="unet",
        description="The network: convolutions (`unet`), a transformer (`dit`); a dotted path names a custom class.",
    )
    image_size: PositiveInt = Field(
        json_schema_extra=_or_auto,
        description="Height and width of the images in pixels; divisible by `patch_size` · 2^(stages−1). `auto` with "
        "`data.type: image_folder`: the median short side of the images, at most 64; the run records the number.",
    )
    in_channels: Annotated[Literal[1, 3, 4], BeforeValidator(_is_no_bool)] = Field(
        json_schema_extra=_or_auto,
        description="Image channels: 1 grayscale, 3 RGB, 4 RGBA. `auto` with `data.type: image_folder`: 1 if all "
        "images are grayscale, else 3.",
    )
    model_channels: Annotated[PositiveInt, AfterValidator(_fits_the_groups)] = Field(
        json_schema_extra={"anyOf": [{"maximum": 32}, {"multipleOf": 8}]},
        description="Feature channels of the first stage; above 32 a multiple of 8 (group normalisation).",
    )
    channel_multipliers: Annotated[tuple[PositiveInt, ...], Field(strict=False, min_length=1, max_length=16)] = Field(
        description="One entry per stage: its channels, divided by `model_channels`. Each further stage halves the "
        "resolution. `dit` has one."
    )
    use_attention: Annotated[tuple[bool, ...], Field(strict=False)] = Field(
        description="One entry per stage, as in `channel_multipliers`: whether it has self-attention. "
        "`[true]` for `dit`."
    )
    num_res_blocks: int = Field(
        default=2, ge=1, le=1000, description="Residual blocks per stage; transformer blocks of `dit`."
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout inside the blocks.")
    patch_size: PositiveInt = Field(
        default=1,
        json_schema_extra=_or_auto,
        description="Side of the patch of pixels that is one position of the first stage, or one token of `dit`. "
        "`auto` follows the image size: 1 to 16 pixels, 2 to 64, 4 to 128 and so on, less where the stages cannot "
        "halve the rest; the run records the number.",
    )
    head_channels: PositiveInt = Field(default=32, description="Minimum number of channels per attention head.")


class DiffusionSettings(PluggableSection):
    """``model.diffusion``: the noise process and the prediction target of the network."""

    type: Annotated[str, NameOrPath(*PROCESS_OPTIONS)] = Field(
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
    zero_terminal_snr: bool = Field(
        default=False, description="`discrete`: zero signal-to-noise ratio at the last step (arXiv:2305.08891)."
    )
    noise_shift: float = Field(
        default=1.0,
        gt=0,
        description="`continuous_cosine`, `flow`: factor of the noise-to-signal ratio at every time; larger images "
        "need more, such as the side divided by 64 (arXiv:2301.11093).",
    )
    sigma_min: float = Field(default=0.002, gt=0, description="`edm`: minimum noise level, less than `sigma_max`.")
    sigma_max: float = Field(default=80.0, gt=0, description="`edm`: maximum noise level.")
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

    @model_serializer(mode="wrap")
    def _without_options_of_other_types(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        tree: dict[str, Any] = serialize(self)
        options = PROCESS_OPTIONS.get(self.type, ())
        return {key: value for key, value in tree.items() if key in options or key not in DEFAULT_PROCESS}


DEFAULT_PROCESS = {
    name: DiffusionSettings.model_fields[name].default for names in PROCESS_OPTIONS.values() for name in names
}


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
