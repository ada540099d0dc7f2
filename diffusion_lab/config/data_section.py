"""The ``data`` section: the source and the batches of the training images."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from diffusion_lab.typed_settings.choice import ChoiceSettings, Options
from diffusion_lab.typed_settings.section import (
    MAX_PROCESSES,
    NameOrPath,
    PathText,
    PositiveInt,
    Probability,
    Section,
)

DOWNLOADED_TYPES = ("mnist", "cifar10", "fashion_mnist")
SELF_CONTAINED_TYPES = ("digits", "emoji")
"""Data sets that come with the installed packages and read no path."""


def _is_colour(name: str) -> str:
    from PIL import ImageColor  # the only use of PIL here; --help should not pay for it

    try:
        ImageColor.getrgb(name)
    except ValueError as error:
        raise ValueError("must be a colour name that PIL knows, or #rrggbb") from error
    return name


class PathSettings(Section):
    """``data.paths``: the folders of the images."""

    train: PathText | None = Field(
        description="Training images: a folder of images (`image_folder`), the download folder (`mnist`, "
        "`cifar10`, `fashion_mnist`), or `null` for data sets of the project (`digits`, `emoji`)."
    )
    val: PathText | None = Field(description="Validation images; `null` splits them off the training images.")


class LoadingSettings(Section):
    """``data.loading``: batches and worker processes."""

    batch_size: PositiveInt = Field(description="Images per batch.")
    num_workers: int = Field(
        ge=0, le=MAX_PROCESSES, description="Worker processes that load images; 0 loads in the main process."
    )
    pin_memory: bool = Field(description="Page-locked memory for faster copies to a GPU.")
    shuffle_train: bool = Field(description="Shuffle the training images every epoch.")
    drop_last: bool = Field(description="Drop the last batch of an epoch if it is not full.")
    worker_timeout: Annotated[float, Field(gt=0)] = Field(
        default=120.0,
        description="Seconds to wait for a batch before the worker processes are considered hung, which ends the run.",
    )


class ColorJitterSettings(Section):
    """``data.augmentation.color_jitter``: random brightness, contrast and saturation."""

    enabled: bool = Field(description="Whether colours are jittered.")
    strength: Probability = Field(description="Largest relative change of brightness, contrast and saturation.")


class AugmentationSettings(Section):
    """``data.augmentation``: random changes of the training images, none of the validation images."""

    horizontal_flip: bool = Field(description="Mirror half of the images; wrong for digits and letters.")
    rotation_degrees: float = Field(ge=0, le=180, description="Largest random rotation in either direction.")
    color_jitter: ColorJitterSettings


class ValidationSplitSettings(Section):
    """``data.validation_split``: how images are split off for validation where ``data.paths.val`` is ``null``."""

    fraction: float = Field(default=0.1, gt=0, lt=1, description="Share of each class kept for validation.")
    seed: int = Field(default=0, ge=0, description="Seed of the split; deliberately independent of `compute.seed`.")


class NoOptions(Options):
    """None besides the keys of the section: ``run_images/sources.py`` reads these data sets."""


DATA_SETS: dict[str, type[Options] | str] = {
    **dict.fromkeys(("image_folder", *SELF_CONTAINED_TYPES, *DOWNLOADED_TYPES), NoOptions),
}
"""Names that ``data.type`` accepts; a line ``"name": "path.of.a.class"`` adds a data set."""


class DataSettings(ChoiceSettings):
    """``data``: the images. Their size, channels and labels follow from the ``model`` section."""

    KEY = "data"
    NAMED = DATA_SETS
    PASSED: ClassVar[dict[str, str]] = {
        "image_size": "model.architecture.image_size",
        "channels": "model.architecture.in_channels",
    }
    REQUIRED = ("image_size", "channels")

    type: Annotated[str, NameOrPath(*DATA_SETS)] = Field(
        default="image_folder",
        description="Source of the images: your own images (`image_folder`), data sets that come with the project "
        "(`digits`, `emoji`), others that are downloaded, or the dotted path of a custom class.",
    )
    paths: PathSettings
    loading: LoadingSettings
    augmentation: AugmentationSettings
    validation_split: ValidationSplitSettings = Field(default_factory=ValidationSplitSettings)
    on_corrupt: Literal["skip", "error"] = Field(
        default="skip",
        description="What to do with an unreadable image file: `skip` it (reported and counted), or stop with an "
        "`error`.",
    )
    max_pixels: PositiveInt = Field(
        default=50_000_000,
        description="Largest image that is decoded, in pixels (height times width); larger ones are skipped and "
        "reported. Decoding takes up to 20 bytes per pixel. A JPEG much larger than the training images counts at the "
        "reduced size at which it is decoded.",
    )
    background: Annotated[str, AfterValidator(_is_colour)] = Field(
        default="white", description="Colour behind transparent pixels: a name that PIL knows, or `#rrggbb`."
    )
    crop: Literal["center", "random"] = Field(
        default="center",
        description="Square to crop from an image that is not square, after resizing its short side.",
    )
    cache: Literal["disk", "memory", "none"] = Field(
        default="disk",
        description="Cache of the decoded and resized images of a folder: on `disk`, shared with later runs and read "
        "on demand, so that it may exceed the memory; in `memory` for this run; `none` decodes every image every "
        "time. The images are the same. Other data sets are always in memory.",
    )
    cache_dir: PathText | None = Field(
        default=None,
        description="Folder of the caches of `data.cache: disk`; `null`: `diffusion_lab` in `$XDG_CACHE_HOME`, or in "
        "`~/.cache`. Its contents may be deleted at any time; users who share it have separate caches.",
    )
