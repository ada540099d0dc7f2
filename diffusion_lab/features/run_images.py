"""Training and validation images of a run, loaded according to the settings in its checkpoint."""

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
    """Load the training or validation images of a run.

    Args:
        path: Run folder, checkpoint file, or a loaded checkpoint.
        split: ``train`` or ``val``.
        image_size: Side of the images in pixels; None: that of the model.
        channels: 1, 3 or 4; None: those of the model.
        trust: Dotted paths of classes in the checkpoint that may be imported.

    Raises:
        ValueError: The checkpoint does not record its images, the run had no validation images, or a class is not
            trusted.
        OSError: Checkpoint or images cannot be read.

    Warns:
        ConfigWarning: The images have changed since the run.
    """
    checkpoint = path if isinstance(path, Checkpoint) else read_checkpoint(find_checkpoint(path))
    sources = run_sources(checkpoint, image_size, channels, trust)
    known = checkpoint.metadata.get("data_fingerprint")
    if image_size is None and channels is None and known is not None and data_fingerprint(sources.train) != known:
        message = f"the images are not those that {checkpoint.path} was trained on: some were added, removed or changed"
        warnings.warn(message, ConfigWarning, stacklevel=2)
    if split == "train":
        return sources.train
    if sources.val is None:
        raise ValueError(
            f"split must be train for {checkpoint.path}, got 'val': the run kept no images for validation "
            "(training.validation.enabled was false)"
        )
    return sources.val


def run_sources(
    checkpoint: Checkpoint,
    image_size: int | None = None,
    channels: int | None = None,
    trust: Collection[str] = (),
    moved_to: Mapping[str, Path] = MappingProxyType({}),
) -> Sources:
    """Load the training and validation images of a run.

    Args:
        checkpoint: A checkpoint of the run.
        image_size: Side of the images in pixels; None: that of the model.
        channels: 1, 3 or 4; None: those of the model.
        trust: Dotted paths of classes in the checkpoint that may be imported.
        moved_to: New paths of moved images, by ``train`` or ``val``.

    Raises:
        ValueError: The same as in ``run_images``.
        OSError: Images cannot be read.
    """
    tree = checkpoint.config or {}
    section, model = tree.get("data"), checkpoint.model
    if not isinstance(section, Mapping) or model is None:
        raise ValueError(
            f"{checkpoint.path} does not say which images it was trained on: use a checkpoint of a training run, or "
            "the folder of the images"
        )
    if holds_redacted(dict(section)):
        raise ValueError(
            f"{checkpoint.path} was saved without a secret that its data section needs: use the folder of the images"
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
        validated=_has_validation(tree),
        class_names=checkpoint.class_names if conditional else (),
        key=str(checkpoint.path),
    )


def data_class_path(checkpoint: Checkpoint) -> str | None:
    """Return the dotted path of the custom class of a checkpoint's images; None if there is none."""
    section = (checkpoint.config or {}).get("data")
    kind = section.get("type") if isinstance(section, Mapping) else None
    return kind if isinstance(kind, str) and "." in kind else None


def _has_validation(tree: Mapping[str, Any]) -> bool:
    """Return whether the run had validation images."""
    match tree:
        case {"training": {"validation": {"enabled": bool(enabled)}}}:
            return enabled
    return True
