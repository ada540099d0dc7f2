"""The images that a run was trained on or validated on, read again by the settings in its checkpoint."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from diffusion_lab.checkpoint import Checkpoint, find_checkpoint, read_checkpoint
from diffusion_lab.checkpoint.content import parse_saved_section
from diffusion_lab.config.data_section import DataSettings
from diffusion_lab.console.redaction import holds_redacted
from diffusion_lab.data.source import ImageSource
from diffusion_lab.faults import ConfigWarning
from diffusion_lab.run_images.sources import Sources, read_sources
from diffusion_lab.runs.identity import data_fingerprint

Split = Literal["train", "val"]


def run_images(
    path: str | Path | Checkpoint,
    split: Split = "train",
    image_size: int | None = None,
    channels: int | None = None,
    trust: Collection[str] = (),
) -> ImageSource:
    """Read the images of a run: those it was trained on, or those it kept for validation.

    Args:
        path: Run folder, checkpoint file, or a checkpoint that was read.
        split: ``train`` or ``val``.
        image_size: Side of the images in pixels; None: that of the model.
        channels: 1, 3 or 4; None: those of the model.
        trust: Dotted paths of classes that may be imported because the checkpoint names them.

    Raises:
        ValueError: The checkpoint does not say what its images are, the run kept none for validation, or a class is not
            trusted.
        OSError: Checkpoint or images cannot be read.

    Warns:
        ConfigWarning: The images are not those that the run was trained on.
    """
    checkpoint = path if isinstance(path, Checkpoint) else read_checkpoint(find_checkpoint(path))
    found = run_sources(checkpoint, image_size, channels, trust)
    known = checkpoint.about.get("data_fingerprint")
    if image_size is None and channels is None and known is not None and data_fingerprint(found.train) != known:
        message = f"the images are not those that {checkpoint.path} was trained on: some were added, removed or changed"
        warnings.warn(message, ConfigWarning, stacklevel=2)
    if split == "train":
        return found.train
    if found.val is None:
        raise ValueError(
            f"split must be train for {checkpoint.path}, got 'val': the run kept no images for validation "
            "(training.validation.enabled was false)"
        )
    return found.val


def run_sources(
    checkpoint: Checkpoint,
    image_size: int | None = None,
    channels: int | None = None,
    trust: Collection[str] = (),
    moved_to: Mapping[str, Path] = MappingProxyType({}),
) -> Sources:
    """Read the images that a run was trained on, and those that it kept for validation.

    Args:
        checkpoint: One of the run.
        image_size: As of ``run_images``.
        channels: As of ``run_images``.
        trust: As of ``run_images``.
        moved_to: Where images are now that have moved, by ``train`` or ``val``.

    Raises:
        ValueError: As of ``run_images``.
        OSError: Images cannot be read.
    """
    tree = checkpoint.config or {}
    section, model = tree.get("data"), checkpoint.model
    if not isinstance(section, Mapping) or model is None:
        raise ValueError(
            f"{checkpoint.path} does not say which images it was trained on: give a checkpoint that train.py wrote, or "
            "the folder of the images"
        )
    if holds_redacted(dict(section)):
        raise ValueError(
            f"{checkpoint.path} was saved without a secret that its data section needs: give the folder of the images"
        )
    data = parse_saved_section(DataSettings, section, "data", checkpoint.path)
    if moved_to:
        data = data.model_copy(update={"paths": data.paths.model_copy(update=dict(moved_to))})
    if "." in data.type and data.type not in trust:
        raise ValueError(
            f"{checkpoint.path} names the class {data.type!r} for its images, which is imported only where you say so: "
            f"if you trust it, trust=[{data.type}]"
        )
    conditional = model.conditioning.type == "class"
    return read_sources(
        data,
        image_size or model.architecture.image_size,
        channels or model.architecture.in_channels,
        labelled=conditional,
        validated=_validated(tree),
        class_names=checkpoint.class_names if conditional else (),
        key=str(checkpoint.path),
    )


def class_of_images(checkpoint: Checkpoint) -> str | None:
    """Return the dotted path of the class that a checkpoint names for its images; None where it names none."""
    section = (checkpoint.config or {}).get("data")
    kind = section.get("type") if isinstance(section, Mapping) else None
    return kind if isinstance(kind, str) and "." in kind else None


def _validated(tree: Mapping[str, Any]) -> bool:
    """Whether the run kept images for validation."""
    match tree:
        case {"training": {"validation": {"enabled": bool(enabled)}}}:
            return enabled
    return True
