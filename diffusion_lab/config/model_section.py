"""The ``model`` section: the network, the diffusion process, and the conditioning."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field

from diffusion_lab.config.choice import ChoiceSettings, Options
from diffusion_lab.config.section import NameOrPath, PositiveInt, Probability, Section


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


Count = Annotated[int, Field(ge=1, le=1000)]
Dropout = Annotated[float, Field(ge=0, lt=1)]


class UNetOptions(Options):
    """Options of the U-Net."""

    CLASS = "diffusion_lab.networks.unet.UNet"
    SIZE_KEYS: ClassVar[tuple[str, ...]] = ("model_channels", "channel_multipliers", "num_res_blocks")
    MIN_WEIGHTS_OF_A_BLOCK: ClassVar[int] = 9
    """In squares of its width: a 3×3 convolution."""

    model_channels: Annotated[PositiveInt, AfterValidator(_fits_the_groups)] = Field(
        json_schema_extra={"anyOf": [{"maximum": 32}, {"multipleOf": 8}]},
        description="Feature channels of the first stage; above 32 a multiple of 8 (group normalisation).",
    )
    channel_multipliers: Annotated[tuple[PositiveInt, ...], Field(strict=False, min_length=1, max_length=16)] = Field(
        description="One entry per stage: its channels, divided by `model_channels`. Each further stage halves the "
        "resolution."
    )
    use_attention: Annotated[tuple[bool, ...], Field(strict=False)] = Field(
        description="One entry per stage, as in `channel_multipliers`: whether it has self-attention."
    )
    num_res_blocks: Count = Field(default=2, description="Residual blocks per stage.")
    dropout: Dropout = Field(default=0.0, description="Dropout inside the blocks.")
    patch_size: PositiveInt = Field(
        default=1,
        json_schema_extra=_or_auto,
        description="Side of the patch of pixels that is one position of the first stage. `auto` follows the image "
        "size: 1 to 16 pixels, 2 to 64, 4 to 128 and so on, less where the stages cannot halve the rest; the run "
        "records the number.",
    )
    head_channels: PositiveInt = Field(default=32, description="Minimum number of channels per attention head.")

    @property
    def stages(self) -> list[tuple[int, int]]:
        """Width and number of blocks of each stage."""
        return [(self.model_channels * multiplier, self.num_res_blocks) for multiplier in self.channel_multipliers]


class DiTOptions(Options):
    """Options of the diffusion transformer, by the names of arXiv:2212.09748."""

    CLASS = "diffusion_lab.networks.dit.DiT"
    SIZE_KEYS: ClassVar[tuple[str, ...]] = ("hidden_size", "depth")
    MIN_WEIGHTS_OF_A_BLOCK: ClassVar[int] = 10
    """In squares of its width: attention has 4, its modulation 6."""

    hidden_size: PositiveInt = Field(description="Channels of a token; divisible by 4 and by `num_heads`.")
    depth: Count = Field(description="Number of transformer blocks.")
    num_heads: PositiveInt = Field(description="Attention heads of each block.")
    mlp_ratio: float = Field(
        default=4.0, gt=0, description="Channels of the hidden layer of each MLP, divided by `hidden_size`."
    )
    patch_size: PositiveInt = Field(
        default=1,
        json_schema_extra=_or_auto,
        description="Side of the patch of pixels that is one token. `auto` follows the image size: 1 to 16 pixels, 2 "
        "to 64, 4 to 128 and so on; the run records the number.",
    )
    dropout: Dropout = Field(default=0.0, description="Dropout after attention and MLP.")

    @property
    def stages(self) -> list[tuple[int, int]]:
        """Width and number of blocks, as one stage."""
        return [(self.hidden_size, self.depth)]


NETWORKS: dict[str, type[Options] | str] = {
    "unet": UNetOptions,
    "dit": DiTOptions,
}
"""Names that ``model.architecture.type`` accepts: options, or the path of a class whose signature declares them."""


WIDEST = 2**20
"""Largest width that is read from the keys of earlier versions."""


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
        json_schema_extra=_or_auto,
        description="Height and width of the images in pixels; divisible by `patch_size`, for `unet` times "
        "2^(stages−1). `auto` with `data.type: image_folder`: the median short side of the images, at most 64; the run "
        "records the number.",
    )
    in_channels: Annotated[Literal[1, 3, 4], BeforeValidator(_is_no_bool)] = Field(
        json_schema_extra=_or_auto,
        description="Image channels: 1 grayscale, 3 RGB, 4 RGBA. `auto` with `data.type: image_folder`: 1 if all "
        "images are grayscale, else 3.",
    )

    @classmethod
    def translate_old_keys(cls, section: dict[str, Any]) -> None:
        """Replace the keys of a transformer of earlier versions, those of the U-Net, in place; only if all are there.

        >>> dit = {"type": "dit", "model_channels": 64, "channel_multipliers": [2], "use_attention": [True]}
        >>> ArchitectureSettings.translate_old_keys(dit)
        >>> dit
        {'type': 'dit', 'hidden_size': 128, 'depth': 2, 'num_heads': 4}
        """
        match section:
            case {
                "type": "dit",
                "model_channels": int(channels),
                "channel_multipliers": [int(multiplier)],
                "use_attention": [True],
            } if 0 < channels * multiplier < WIDEST and not section.keys() & {"hidden_size", "depth", "num_heads"}:
                width, head_channels = channels * multiplier, section.get("head_channels", 32)
                if not isinstance(head_channels, int) or head_channels < 1:
                    return
                most = max(width // head_channels, 1)
                section |= {
                    "hidden_size": width,
                    "depth": section.pop("num_res_blocks", 2),
                    "num_heads": next(heads for heads in range(most, 0, -1) if width % heads == 0),
                }
                for name in ("model_channels", "channel_multipliers", "use_attention", "head_channels"):
                    section.pop(name, None)


class DiscreteOptions(Options):
    """Options of the discrete process besides the V2 keys."""

    CLASS = "diffusion_lab.diffusion.schedules.DiscreteSchedule"

    zero_terminal_snr: bool = Field(
        default=False, description="Zero signal-to-noise ratio at the last step (arXiv:2305.08891)."
    )


class ContinuousCosineOptions(Options):
    """Options of the cosine schedule in continuous time."""

    CLASS = "diffusion_lab.diffusion.continuous.ContinuousCosineSchedule"

    noise_shift: float = Field(
        default=1.0,
        gt=0,
        description="Factor of the noise-to-signal ratio at every time; larger images need more, such as the side "
        "divided by 64 (arXiv:2301.11093).",
    )


class FlowOptions(ContinuousCosineOptions):
    """Options of rectified flow."""

    CLASS = "diffusion_lab.diffusion.continuous.FlowSchedule"


class EDMOptions(Options):
    """Options of EDM's process."""

    CLASS = "diffusion_lab.diffusion.continuous.EDMSchedule"

    sigma_min: float = Field(default=0.002, gt=0, description="Minimum noise level, less than `sigma_max`.")
    sigma_max: float = Field(default=80.0, gt=0, description="Maximum noise level.")


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
