"""Real images to compare with: the data of a run, which must be the same still, or folders."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from diffusion_lab.checkpoint import Checkpoint
from diffusion_lab.config.evaluation_section import MIN_IMAGES
from diffusion_lab.data.source import ImageSource
from diffusion_lab.features.image_sets import is_run_path, open_image_set
from diffusion_lab.features.opaque import without_transparency
from diffusion_lab.features.run_images import run_sources
from diffusion_lab.identity import data_fingerprint, validation_fingerprint

Split = Literal["train", "val"]

INSTEAD = "reference=DIR compares with the images of a folder instead"


@dataclass(frozen=True)
class RealSources:
    """Real images in two sets that share none.

    Attributes:
        reference: Those to compare with.
        held_out: Others; None where there are none.
        split: Which part of the data of the run ``reference`` is; None where it is a folder.
        name: What ``reference`` is called in tables.
        trained_on: Those that the model was trained on, where that is neither set.
        unknown: Why it is not known what the model was trained on; None where it is.
    """

    reference: ImageSource
    held_out: ImageSource | None
    split: Split | None
    name: str
    trained_on: ImageSource | None = None
    unknown: str | None = None

    @property
    def train(self) -> ImageSource:
        """Those that a model may have memorized."""
        if self.trained_on is not None:
            return self.trained_on
        return self.held_out if self.split == "val" and self.held_out is not None else self.reference

    @property
    def unseen(self) -> ImageSource | None:
        """Those that the model was not trained on; None where there are none."""
        return self.reference if self.split == "val" else self.held_out


def images_of_run(
    checkpoint: Checkpoint, split: Split, trust: Collection[str], moved_to: Mapping[str, Path]
) -> RealSources:
    """Read the images of a run again, and compare their fingerprints with those in its checkpoint.

    Args:
        checkpoint: One of the run.
        split: Which images to compare with.
        trust: Dotted paths of classes that may be imported because the checkpoint names them.
        moved_to: Where images are now that have moved, by ``train`` or ``val``.

    Raises:
        ValueError: The checkpoint does not say what its images are, they are missing or have changed, or the run
            kept none for validation.
    """
    try:
        found = run_sources(checkpoint, trust=trust, moved_to=moved_to)
    except (ValueError, OSError) as error:
        raise ValueError(
            f"the images of the run of {checkpoint.path} cannot be read: {error}. Where they have moved, "
            f"data.paths.train=DIR and data.paths.val=DIR name their place; {INSTEAD}"
        ) from error
    _refuse_other_images(checkpoint, found.train, found.val)
    train, val = without_transparency(found.train), None if found.val is None else without_transparency(found.val)
    if split == "train":
        return RealSources(train, val, split, "training images")
    if val is None:
        raise ValueError(
            f"evaluation.split must be train, got 'val': the run of {checkpoint.path} kept no images for validation "
            "(training.validation.enabled was false)"
        )
    return RealSources(val, train, split, "validation images")


def training_images(checkpoint: Checkpoint, trust: Collection[str], moved_to: Mapping[str, Path]) -> ImageSource:
    """Read again what a model was trained on, where its samples are compared with images from elsewhere.

    Args:
        checkpoint: As of ``images_of_run``.
        trust: As of ``images_of_run``.
        moved_to: As of ``images_of_run``.

    Raises:
        ValueError, OSError: The checkpoint does not say which images these are, they are missing or have changed, or
            they are too few.
    """
    if not isinstance((checkpoint.config or {}).get("data"), Mapping):
        raise ValueError("the checkpoint does not say which they are")
    found = run_sources(checkpoint, trust=trust, moved_to=moved_to).train
    known = checkpoint.about.get("data_fingerprint")
    if known is not None and data_fingerprint(found) != known:
        raise ValueError("some were added, removed or changed since")
    if len(found) < MIN_IMAGES:
        raise ValueError(f"memorization needs {MIN_IMAGES} of them, and they are {len(found)}")
    return without_transparency(found)


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
        reference: Those to compare with.
        held_out: Others.
        image_size: Side in pixels that the images are brought to; None: as they are.
        channels: 1, 3 or 4; None: as they are.
        cache_dir: Folder of the caches of decoded pictures; None: the user's.
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
    """Open the images that a key of the section ``evaluation`` names. What is trusted is so for runs alone."""
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


def _refuse_other_images(checkpoint: Checkpoint, train: ImageSource, val: ImageSource | None) -> None:
    """Raise ValueError where the images differ from those of the checkpoint, as far as it records them."""
    known = checkpoint.about.get("data_fingerprint")
    here = data_fingerprint(train)
    if known is not None and here != known:
        raise _other(checkpoint, "train", known, here)
    known = checkpoint.about.get("validation_fingerprint")
    there = validation_fingerprint(train, val, here)
    if known is not None and there != known:
        raise _other(checkpoint, "val", known, str(there))


def _other(checkpoint: Checkpoint, part: Split, known: str, here: str) -> ValueError:
    what = "trained on" if part == "train" else "validated on"
    return ValueError(
        f"the images are not those that {checkpoint.path} was {what}: their fingerprint is {here[:12]}…, and "
        f"{str(known)[:12]}… in the checkpoint. Some were added, removed or changed: put them back, name another place "
        f"with data.paths.{part}=DIR; {INSTEAD}"
    )
