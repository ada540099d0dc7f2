"""Data module of a training run, created from its settings."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from diffusion_lab.checkpoint import Checkpoint
from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.data.augmentation import Augmentation
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.faults import ConfigWarning
from diffusion_lab.run_images.classes import check_classes
from diffusion_lab.run_images.sources import read_sources


def class_names_of(checkpoint: Checkpoint | None) -> tuple[str, ...]:
    """Return the class names of a checkpoint in the order of their numbers; empty if it has no classes."""
    conditional = checkpoint is not None and checkpoint.model is not None and checkpoint.model.conditioning.classes
    return checkpoint.class_names if checkpoint is not None and conditional else ()


def create_datamodule(config: TrainConfig, seed: int, class_names: Sequence[str] = ()) -> ImageDataModule:
    """Read the images of the settings and create their data module.

    Args:
        config: The settings.
        seed: Seed of the run.
        class_names: Class names of the model that is trained further, in the order of their numbers: the classes of
            the images get these numbers by name. Empty for a new model.

    Raises:
        ValueError: There are no images or no batch, the classes do not match the model, or an image is corrupt and
            ``data.on_corrupt`` is ``error``.
    """
    conditional = config.model.conditioning.type == "class"
    sources = read_sources(
        config.data,
        config.model.architecture.image_size,
        config.model.architecture.in_channels,
        labelled=conditional,
        validated=config.training.validation.enabled,
        class_names=class_names if conditional else (),
    )
    for message in sources.warnings:
        warnings.warn(message, ConfigWarning, stacklevel=2)
    if conditional:
        check_classes(config, sources.train.class_names)
    loading, augmentation = config.data.loading, config.data.augmentation
    jitter = augmentation.color_jitter
    return ImageDataModule(
        sources.train,
        sources.val if config.training.validation.enabled else None,
        batch_size=loading.batch_size,
        num_workers=loading.num_workers,
        pin_memory=loading.pin_memory,
        shuffle=loading.shuffle_train,
        drop_last=loading.drop_last,
        augmentation=Augmentation(
            horizontal_flip=augmentation.horizontal_flip,
            rotation_degrees=augmentation.rotation_degrees,
            jitter_strength=jitter.strength if jitter.enabled else 0.0,
        ),
        labelled=conditional,
        seed=seed,
        worker_timeout=loading.worker_timeout,
        remarks=sources.remarks.with_notes(sources.warnings),
    )
