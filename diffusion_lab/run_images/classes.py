"""Checks that the classes of the images and of the model match."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.console.terminal import on_one_line
from diffusion_lab.data.image_folder import ImageFolderSource
from diffusion_lab.faults import ConfigWarning
from diffusion_lab.faults.sampling_warnings import label_share_warnings

NAMED_CLASSES = 8
"""Most classes that a message names; it only counts the rest."""

HINT = "conditioning=class on the command line (model.conditioning.type: class in a file)"


def check_classes(config: TrainConfig, class_names: Sequence[str]) -> None:
    """Raise ValueError if the classes of the images do not match a class-conditional model, or there are none."""
    num_classes = config.model.conditioning.num_classes
    if not class_names:
        data = config.data
        where = (
            f"data.paths.train {str(data.paths.train)!r}" if data.type == "image_folder" else f"data.type {data.type}"
        )
        raise ValueError(
            f"model.conditioning.type class needs images with classes, and {where} has none: put the images of each "
            "class into a separate folder, or train without labels: conditioning=none on the command line "
            "(model.conditioning.type: null in a file)"
        )
    if num_classes not in ("auto", len(class_names)):
        raise ValueError(
            "model.conditioning.num_classes must be the number of classes of the data, "
            f"{len(class_names)} ({list_classes(class_names)}), got {num_classes} (auto counts them)"
        )


def with_counted_classes(config: TrainConfig, class_names: Sequence[str]) -> TrainConfig:
    """Return the settings with ``num_classes: auto`` replaced by the number of classes, and give warnings about it."""
    conditioning = config.model.conditioning
    if conditioning.num_classes != "auto":
        return config
    num_classes, visualization = len(class_names), config.training.visualization
    if visualization.enabled:
        key, num_samples = "training.visualization.num_samples", visualization.num_samples
        for message in label_share_warnings(key, num_samples, num_classes):
            warnings.warn(message, ConfigWarning, stacklevel=2)
    counted = conditioning.model_copy(update={"num_classes": num_classes})
    model = config.model.model_copy(update={"conditioning": counted})
    return config.model_copy(update={"model": model})


def unused_classes(source: ImageFolderSource) -> Iterator[str]:
    """Warn if a folder has class folders and the model is unconditional."""
    if len(source.class_names) > 1:
        yield (
            f"{source.key} has {len(source.class_names)} class folders ({list_classes(source.class_names)}), and "
            f"training is unconditional, so their names are not used; to train with labels: {HINT}"
        )
    elif source.inner is not None:
        subfolder, names = source.inner
        yield (
            f"{source.key} has {len(names)} folders ({list_classes(names)}) inside its only subfolder, and training is "
            f"unconditional; to train with them as classes: data.paths.train {str(source.path / subfolder)!r} and "
            f"{HINT}"
        )


def list_classes(names: Sequence[str]) -> str:
    """Return the names of classes, or the first of many, on one line that is safe to print."""
    more = f" and {len(names) - NAMED_CLASSES} more" if len(names) > NAMED_CLASSES else ""
    return on_one_line(", ".join(names[:NAMED_CLASSES]) + more)
