"""The ``model`` section: the network, the diffusion process, and what the images are conditioned on."""

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
    """Let editors accept ``auto``, which is a number by the time this class sees it.

    See measured_images.py and patch_size.py.
    """
    number = {key: schema.pop(key) for key in ("type", "minimum", "enum") if key in schema}
    schema["anyOf"] = [number, {"const": "auto", "type": "string"}]


class ArchitectureSettings(PluggableSection):
    """``model.architecture``: the network. The size and channels of the data follow from here."""

    type: Annotated[str, NameOrPath(*ARCHITECTURE_TYPES)] = Field(
        default="unet",
        description="The network: convolutions (`unet`), a transformer (`dit`); a dotted path names your own class.",
    )
    image_size: PositiveInt = Field(
        json_schema_extra=_or_auto,
        description="Height and width of the images in pixels; divisible by `patch_size` · 2^(stages−1). `auto` with "
        "`data.type: image_folder`: the median short side of the pictures, at most 64; the run records the number.",
    )
    in_channels: Annotated[Literal[1, 3, 4], BeforeValidator(_is_no_bool)] = Field(
        json_schema_extra=_or_auto,
        description="Image channels: 1 gray, 3 RGB, 4 RGBA. `auto` with `data.type: image_folder`: 1 where all "
        "pictures are gray, else 3.",
    )
    model_channels: Annotated[PositiveInt, AfterValidator(_fits_the_groups)] = Field(
        json_schema_extra={"anyOf": [{"maximum": 32}, {"multipleOf": 8}]},
        description="Feature channels of the first stage; above 32 a multiple of 8 (group normalisation).",
    )
    channel_multipliers: Annotated[tuple[PositiveInt, ...], Field(strict=False, min_length=1, max_length=16)] = Field(
        description="One entry a stage: its channels in units of `model_channels`. Later stages halve the image. "
        "`dit` has one."
    )
    use_attention: Annotated[tuple[bool, ...], Field(strict=False)] = Field(
        description="One entry a stage, as many as `channel_multipliers` has: whether it has self-attention. "
        "`[true]` for `dit`."
    )
    num_res_blocks: int = Field(
        default=2, ge=1, le=1000, description="Residual blocks a stage; transformer blocks of `dit`."
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout inside the blocks.")
    patch_size: PositiveInt = Field(
        default=1,
        json_schema_extra=_or_auto,
        description="Side of the square of pixels that the first stage sees as one position, `dit` as one token. "
        "`auto` follows the image size: 1 to 16 pixels, 2 to 64, 4 to 128 and so on, less where the stages cannot "
        "halve what is left; the run records the number.",
    )
    head_channels: PositiveInt = Field(default=32, description="Channels of an attention head, at least.")


class DiffusionSettings(PluggableSection):
    """``model.diffusion``: how images become noise, and what the network predicts about it."""

    type: Annotated[str, NameOrPath(*PROCESS_OPTIONS)] = Field(
        default="discrete",
        description="The noise process: DDPM's steps, or one in continuous time; a dotted path names your own class.",
    )
    num_timesteps: int = Field(
        ge=1,
        le=1_000_000,
        description="`discrete`: steps of the process; float32 tells hardly more times apart.",
    )
    beta_schedule: Literal["linear", "cosine", "quadratic", "sigmoid"] = Field(
        description="`discrete`: how the noise variance grows over the steps."
    )
    beta_start: float = Field(
        gt=0,
        lt=1,
        description="`discrete`: noise variance of the first step, less than `beta_end`; `cosine` does without both.",
    )
    beta_end: float = Field(
        gt=0,
        lt=1,
        description="`discrete`: noise variance of the last step; T steps want 1000 / T times as much as 1,000.",
    )
    zero_terminal_snr: bool = Field(
        default=False, description="`discrete`: leave nothing of the image at the last step (arXiv:2305.08891)."
    )
    noise_shift: float = Field(
        default=1.0,
        gt=0,
        description="`continuous_cosine`, `flow`: factor of the noise-to-signal ratio at every time; larger images "
        "need more, such as the side divided by 64 (arXiv:2301.11093).",
    )
    sigma_min: float = Field(default=0.002, gt=0, description="`edm`: least noise, less than `sigma_max`.")
    sigma_max: float = Field(default=80.0, gt=0, description="`edm`: most noise.")
    prediction: Literal["epsilon", "x0", "v", "flow", "edm"] = Field(
        default="epsilon",
        description="What the network predicts: the noise, the clean image (`x0`), the velocity (`v`), noise minus "
        "image (`flow`), or what gives its input and output unit variance (`edm`). In less than 32 bits `v` is more "
        "exact than `epsilon` near pure noise.",
    )
    sigma_data: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        default="auto",
        description="`prediction: edm`: standard deviation of the pixels; `auto` measures it when training.",
    )

    @property
    def prediction_is_asked_for(self) -> bool:
        """Whether somebody has set ``prediction``, and not merely left it to a default."""
        return "prediction" in self.model_fields_set

    def with_default_prediction(self) -> Self:
        """The same settings, in which nobody has asked for ``prediction``."""
        settings = self.model_copy()
        settings.model_fields_set.discard("prediction")
        return settings

    @model_serializer(mode="wrap")
    def _without_options_of_other_types(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        tree: dict[str, Any] = serialize(self)
        kept = PROCESS_OPTIONS.get(self.type, ())
        return {key: value for key, value in tree.items() if key in kept or key not in DEFAULT_PROCESS}


DEFAULT_PROCESS = {
    name: DiffusionSettings.model_fields[name].default for names in PROCESS_OPTIONS.values() for name in names
}


class ConditioningSettings(Section):
    """``model.conditioning``: what can be asked for when sampling."""

    type: Literal["class"] | None = Field(description="`class`: images have labels; `null`: unconditional.")
    num_classes: PositiveInt | Literal["auto"] | None = Field(
        description="Number of classes; required with `type: class`. `auto` counts those of the training images; the "
        "run and its checkpoints hold the number."
    )
    class_dropout_prob: Probability = Field(
        description="Share of the training labels dropped, so that guidance has an unconditional model."
    )

    @property
    def classes(self) -> int | None:
        """The number of classes of a class-conditional model, None for an unconditional one.

        Raises:
            ValueError: They are not counted yet.
        """
        if self.type != "class":
            return None
        if self.num_classes == "auto":
            raise ValueError(
                "model.conditioning.num_classes must be a number here, got 'auto', which only training images resolve"
            )
        return self.num_classes


class ModelSettings(Section):
    """``model``: everything that a checkpoint must know to be sampled from."""

    architecture: ArchitectureSettings
    diffusion: DiffusionSettings
    conditioning: ConditioningSettings


class ConditioningOfCheckpoint(ConditioningSettings):
    """``model.conditioning`` beside the checkpoint of another program, which may tell the classes itself."""

    type: Literal["class"] | None = Field(
        default=None, description="`class`: images have labels; `null`: as the checkpoint tells."
    )
    num_classes: PositiveInt | Literal["auto"] | None = Field(
        default="auto", description="Number of classes; `auto` and `null`: as the checkpoint tells."
    )
    class_dropout_prob: Probability = Field(
        default=0.1, description="Share of the training labels that was dropped; 0 if guidance has nothing to go by."
    )


class ModelOfCheckpoint(ModelSettings):
    """``model`` beside the checkpoint of another program, which does not tell its architecture."""

    conditioning: ConditioningOfCheckpoint = Field(default_factory=ConditioningOfCheckpoint)
