"""Options of the networks: types, bounds and descriptions, checked before torch is imported."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field

from diffusion_lab.typed_settings.choice import Options
from diffusion_lab.typed_settings.section import PositiveInt, or_auto

Count = Annotated[int, Field(ge=1, le=1000)]
Dropout = Annotated[float, Field(ge=0, lt=1)]


def _fits_the_groups(channels: int) -> int:
    if channels > 32 and channels % 8:
        raise ValueError("must be a multiple of 8 above 32, so that group normalisation can divide it")
    return channels


WIDEST = 2**20
"""Largest width that is read from the keys of earlier versions."""


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
        json_schema_extra=or_auto,
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
        json_schema_extra=or_auto,
        description="Side of the patch of pixels that is one token. `auto` follows the image size: 1 to 16 pixels, 2 "
        "to 64, 4 to 128 and so on; the run records the number.",
    )
    dropout: Dropout = Field(default=0.0, description="Dropout after attention and MLP.")

    @property
    def stages(self) -> list[tuple[int, int]]:
        """Width and number of blocks, as one stage."""
        return [(self.hidden_size, self.depth)]

    @classmethod
    def replace_unet_keys(cls, section: dict[str, Any]) -> None:
        """Replace the keys of a transformer of earlier versions, those of the U-Net, in place; only if all are there.

        >>> dit = {"type": "dit", "model_channels": 64, "channel_multipliers": [2], "use_attention": [True]}
        >>> DiTOptions.replace_unet_keys(dit)
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
