"""The ``data`` section: where the training images come from and how they are batched."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from diffusion_lab.config.section import (
    MOST_PROCESSES,
    NameOrPath,
    PathText,
    PluggableSection,
    PositiveInt,
    Probability,
    Section,
)

DATA_TYPES = ("image_folder", "digits", "emoji", "mnist", "cifar10", "fashion_mnist")
DOWNLOADED_TYPES = ("mnist", "cifar10", "fashion_mnist")
SELF_CONTAINED_TYPES = ("digits", "emoji")
"""Data that comes with the installed packages, so that no path is read."""


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
        description="Training images: a folder of pictures (`image_folder`), the download folder (`mnist`, "
        "`cifar10`, `fashion_mnist`), or `null` where the data brings its own (`digits`, `emoji`)."
    )
    val: PathText | None = Field(description="Validation images; `null` splits them off the training images.")


class LoadingSettings(Section):
    """``data.loading``: batches and worker processes."""

    batch_size: PositiveInt = Field(description="Images a batch.")
    num_workers: int = Field(
        ge=0, le=MOST_PROCESSES, description="Worker processes that load images; 0 loads in the main process."
    )
    pin_memory: bool = Field(description="Page-locked memory for faster copies to a GPU.")
    shuffle_train: bool = Field(description="A new order of the training images every epoch.")
    drop_last: bool = Field(description="Leave out the last batch of an epoch where it is not full.")
    worker_timeout: Annotated[float, Field(gt=0)] = Field(
        default=120.0,
        description="Seconds without a batch after which the worker processes count as hung, which ends the run.",
    )


class ColorJitterSettings(Section):
    """``data.augmentation.color_jitter``: random brightness, contrast and saturation."""

    enabled: bool = Field(description="Whether colours are jittered.")
    strength: Probability = Field(description="Largest relative change of brightness, contrast and saturation.")


class AugmentationSettings(Section):
    """``data.augmentation``: random changes of the training images, none of the validation images."""

    horizontal_flip: bool = Field(description="Mirror half of the images; wrong for digits and letters.")
    rotation_degrees: float = Field(ge=0, le=180, description="Rotate by up to this angle either way.")
    color_jitter: ColorJitterSettings


class ValidationSplitSettings(Section):
    """``data.validation_split``: how images are split off for validation where ``data.paths.val`` is ``null``."""

    fraction: float = Field(default=0.1, gt=0, lt=1, description="Share of each class kept for validation.")
    seed: int = Field(default=0, ge=0, description="Which images these are; apart from `compute.seed` on purpose.")


class DataSettings(PluggableSection):
    """``data``: the images. Their size, channels and labels follow from the ``model`` section."""

    type: Annotated[str, NameOrPath(*DATA_TYPES)] = Field(
        default="image_folder",
        description="Where the images come from: your own pictures (`image_folder`), sets that come with the project "
        "(`digits`, `emoji`), others that are downloaded, or a dotted path to your own class.",
    )
    paths: PathSettings
    loading: LoadingSettings
    augmentation: AugmentationSettings
    validation_split: ValidationSplitSettings = Field(default_factory=ValidationSplitSettings)
    on_corrupt: Literal["skip", "error"] = Field(
        default="skip", description="An image file that cannot be read: `skip` it (named and counted), or `error`."
    )
    max_pixels: PositiveInt = Field(
        default=50_000_000,
        description="Largest picture that is decoded, in pixels (height times width); a larger one is left out, and "
        "named. A picture takes up to 20 bytes a pixel while it is decoded. A JPEG much larger than the images counts "
        "at the fraction of its size that it is decoded to.",
    )
    background: Annotated[str, AfterValidator(_is_colour)] = Field(
        default="white", description="Colour behind transparent pixels: a name that PIL knows, or `#rrggbb`."
    )
    crop: Literal["center", "random"] = Field(
        default="center",
        description="Which square of a picture that is not square, after resizing its short side.",
    )
    cache: Literal["disk", "memory", "none"] = Field(
        default="disk",
        description="Where the pictures of a folder are kept once they are decoded and resized: on `disk` for later "
        "runs too, read as they are needed, so that they may be more than memory holds; in `memory` for this run; "
        "`none` decodes each picture each time. The images are the same. Other sets are in memory as they come.",
    )
    cache_dir: PathText | None = Field(
        default=None,
        description="Folder of the caches of `data.cache: disk`; `null`: `diffusion_lab` in `$XDG_CACHE_HOME`, or in "
        "`~/.cache`. What is in it may be removed at any time; users who share it have caches of their own.",
    )
