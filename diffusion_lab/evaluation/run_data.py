"""Real images to compare with: the data of a run, which must be unchanged, or folders."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from diffusion_lab.checkpoint import Checkpoint
from diffusion_lab.data.source import ImageSource
from diffusion_lab.features.image_sets import is_run_path, open_image_set
from diffusion_lab.features.opaque import without_transparency
from diffusion_lab.features.run_images import run_sources
from diffusion_lab.metric_names import MIN_IMAGES
from diffusion_lab.runs.identity import data_fingerprint, validation_fingerprint

Split = Literal["train", "val"]

REFERENCE_INSTEAD = "reference=DIR compares with the images of a folder instead"


@dataclass(frozen=True)
class RealSources:
    """Real images in two disjoint sets.

    Attributes:
        reference: Images to compare with.
        held_out: Other images; None if there are none.
        split: Split of the run's data that ``reference`` is; None if it is a folder.
        name: Name of ``reference`` in tables.
        trained_on: Images that the model was trained on, if that is neither set.
        unknown: Reason why the images that the model was trained on are unknown; None if they are known.
    """

    reference: ImageSource
    held_out: ImageSource | None
    split: Split | None
    name: str
    trained_on: ImageSource | None = None
    unknown: str | None = None

    @property
    def train(self) -> ImageSource:
        """Images that a model may have memorized."""
        if self.trained_on is not None:
            return self.trained_on
        return self.held_out if self.split == "val" and self.held_out is not None else self.reference

    @property
    def unseen(self) -> ImageSource | None:
        """Images that the model was not trained on; None if there are none."""
        return self.reference if self.split == "val" else self.held_out


def images_of_run(
    checkpoint: Checkpoint, split: Split, trust: Collection[str], moved_to: Mapping[str, Path]
) -> RealSources:
    """Read the images of a run again, and compare their fingerprints with those in its checkpoint.

    Args:
        checkpoint: A checkpoint of the run.
        split: Split to compare with.
        trust: Dotted paths of classes that may be imported because the checkpoint names them.
        moved_to: Current folders of images that have moved, by ``train`` or ``val``.

    Raises:
        ValueError: The checkpoint does not record its images, they are missing or have changed, or the run held out
            none for validation.
    """
    try:
        sources = run_sources(checkpoint, trust=trust, moved_to=moved_to)
    except (ValueError, OSError) as error:
        raise ValueError(
            f"the images of the run of {checkpoint.path} cannot be read: {error}. If they have moved, "
            f"data.paths.train=DIR and data.paths.val=DIR set their folders; {REFERENCE_INSTEAD}"
        ) from error
    _check_fingerprints(checkpoint, sources.train, sources.val)
    train = without_transparency(sources.train)
    val = None if sources.val is None else without_transparency(sources.val)
    if split == "train":
        return RealSources(train, val, split, "training images")
    if val is None:
        raise ValueError(
            f"evaluation.split must be train, got 'val': the run of {checkpoint.path} held out no images for "
            "validation (training.validation.enabled was false)"
        )
    return RealSources(val, train, split, "validation images")


def training_images(checkpoint: Checkpoint, trust: Collection[str], moved_to: Mapping[str, Path]) -> ImageSource:
    """Read the images that a model was trained on again, when its samples are compared with other images.

    Args:
        checkpoint: A checkpoint of the run.
        trust: Dotted paths of classes that may be imported because the checkpoint names them.
        moved_to: Current folders of images that have moved, by ``train`` or ``val``.

    Raises:
        ValueError, OSError: The checkpoint does not record its images, they are missing or have changed, or there are
            too few.
    """
    if not isinstance((checkpoint.config or {}).get("data"), Mapping):
        raise ValueError("the checkpoint does not record which they are")
    train = run_sources(checkpoint, trust=trust, moved_to=moved_to).train
    recorded = checkpoint.metadata.get("data_fingerprint")
    if recorded is not None and data_fingerprint(train) != recorded:
        raise ValueError("some were added, removed or changed since")
    if len(train) < MIN_IMAGES:
        raise ValueError(f"memorization needs at least {MIN_IMAGES} of them, got {len(train)}")
    return without_transparency(train)


def images_of_folder(
    reference: Path,
    held_out: Path | None,
    image_size: int | None,
    channels: int | None,
    cache_dir: Path | None,
    trust: Collection[str] = (),
) -> RealSources:
    """Open folders, npz files or runs of real images.

    Args:
        reference: Images to compare with.
        held_out: Other real images.
        image_size: Height and width in pixels to which images are resized; None to leave them unchanged.
        channels: 1, 3 or 4; None to leave them unchanged.
        cache_dir: Folder of the caches of decoded images; None for the user's cache.
        trust: Dotted paths of classes that may be imported because a run names them.
    """
    first = open_images(reference, image_size, channels, "evaluation.reference", cache_dir, trust)
    if held_out is None:
        return RealSources(without_transparency(first), None, None, "reference images")
    second = open_images(held_out, first.image_size, first.channels, "evaluation.held_out", cache_dir, trust)
    return RealSources(without_transparency(first), without_transparency(second), None, "reference images")


def open_images(
    path: Path,
    image_size: int | None,
    channels: int | None,
    key: str,
    cache_dir: Path | None,
    trust: Collection[str] = (),
) -> ImageSource:
    """Open the images that a key of the section ``evaluation`` names. ``trust`` applies to runs only."""
    return open_image_set(
        path,
        image_size,
        channels,
        key=key,
        size_key="evaluation.image_size",
        cache_dir=cache_dir,
        cache_key="evaluation.cache_dir",
        trust=trust if is_run_path(path) else (),
    )


def _check_fingerprints(checkpoint: Checkpoint, train: ImageSource, val: ImageSource | None) -> None:
    """Raise ValueError if the images differ from those of the checkpoint, as far as it records them."""
    recorded = checkpoint.metadata.get("data_fingerprint")
    train_fingerprint = data_fingerprint(train)
    if recorded is not None and train_fingerprint != recorded:
        raise _changed_images_error(checkpoint, "train", recorded, train_fingerprint)
    recorded = checkpoint.metadata.get("validation_fingerprint")
    val_fingerprint = validation_fingerprint(train, val, train_fingerprint)
    if recorded is not None and val_fingerprint != recorded:
        raise _changed_images_error(checkpoint, "val", recorded, str(val_fingerprint))


def _changed_images_error(checkpoint: Checkpoint, split: Split, recorded: str, fingerprint: str) -> ValueError:
    use = "trained on" if split == "train" else "validated on"
    return ValueError(
        f"the images are not those that {checkpoint.path} was {use}: their fingerprint is {fingerprint[:12]}…, and "
        f"{str(recorded)[:12]}… in the checkpoint. Some were added, removed or changed: restore them, or set another "
        f"folder with data.paths.{split}=DIR; {REFERENCE_INSTEAD}"
    )
