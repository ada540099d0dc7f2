"""How the classes of the images and those of the model fit each other."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

from diffusion_lab.config.faults import ConfigWarning
from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.config.suspicious_settings import label_share_warnings
from diffusion_lab.data.image_folder import ImageFolderSource
from diffusion_lab.terminal import on_one_line

NAMED_CLASSES = 8
"""Classes that a message names before it only counts."""

HOW = "conditioning=class on the command line (model.conditioning.type: class in a file)"


def check_classes(config: TrainConfig, class_names: Sequence[str]) -> None:
    """Raise ValueError where the images have other classes than a class-conditional model, or none at all."""
    wanted = config.model.conditioning.num_classes
    if not class_names:
        data = config.data
        where = (
            f"data.paths.train {str(data.paths.train)!r}" if data.type == "image_folder" else f"data.type {data.type}"
        )
        raise ValueError(
            f"model.conditioning.type class needs images with classes, and {where} has none: put the images of each "
            "class into a folder of their own, or train without labels: conditioning=none on the command line "
            "(model.conditioning.type: null in a file)"
        )
    if wanted not in ("auto", len(class_names)):
        raise ValueError(
            "model.conditioning.num_classes must be the number of classes of the data, "
            f"{len(class_names)} ({in_words(class_names)}), got {wanted} (auto counts them)"
        )


def with_counted_classes(config: TrainConfig, class_names: Sequence[str]) -> TrainConfig:
    """The settings with a number for ``num_classes: auto``, and the doubts that depend on it."""
    conditioning = config.model.conditioning
    if conditioning.num_classes != "auto":
        return config
    counted, shown = len(class_names), config.training.visualization
    if shown.enabled:
        for doubt in label_share_warnings("training.visualization.num_samples", shown.num_samples, counted):
            warnings.warn(doubt, ConfigWarning, stacklevel=2)
    model = config.model.model_copy(update={"conditioning": conditioning.model_copy(update={"num_classes": counted})})
    return config.model_copy(update={"model": model})


def unused_classes(source: ImageFolderSource) -> Iterator[str]:
    """One line where a folder has class folders and the model is unconditional."""
    if len(source.class_names) > 1:
        yield (
            f"{source.key} has {len(source.class_names)} class folders ({in_words(source.class_names)}), and training "
            f"is unconditional, so their names are not used; to train with labels: {HOW}"
        )
    elif source.inner is not None:
        place, names = source.inner
        yield (
            f"{source.key} has {len(names)} folders ({in_words(names)}) inside its only subfolder, and training is "
            f"unconditional; to train with them as classes: data.paths.train {str(source.path / place)!r} and {HOW}"
        )


def in_words(names: Sequence[str]) -> str:
    """Return the names of classes, of many the first ones, on one line and safe to print."""
    more = f" and {len(names) - NAMED_CLASSES} more" if len(names) > NAMED_CLASSES else ""
    return on_one_line(", ".join(names[:NAMED_CLASSES]) + more)
