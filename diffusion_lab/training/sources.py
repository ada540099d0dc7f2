"""The batches of a training run from its settings."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from diffusion_lab.checkpoint import Checkpoint
from diffusion_lab.config.faults import ConfigWarning
from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.data.augmentation import Augmentation
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.run_images.classes import check_classes
from diffusion_lab.run_images.sources import read_sources


def class_names_of(checkpoint: Checkpoint | None) -> tuple[str, ...]:
    """The names of the classes that a checkpoint knows by number; none where it has no classes."""
    conditional = checkpoint is not None and checkpoint.model is not None and checkpoint.model.conditioning.classes
    return checkpoint.class_names if checkpoint is not None and conditional else ()


def create_datamodule(config: TrainConfig, seed: int, class_names: Sequence[str] = ()) -> ImageDataModule:
    """Read the images of the settings and set up their batches.

    Args:
        config: The settings.
        seed: Seed of the run.
        class_names: Of the model that is trained further, in the order of their numbers: the classes of the images get
            these numbers by their names. Empty for a new model.

    Raises:
        ValueError: No images, no batch, classes that do not fit the model, or a corrupt image where that is fatal.
    """
    conditional = config.model.conditioning.type == "class"
    found = read_sources(
        config.data,
        config.model.architecture.image_size,
        config.model.architecture.in_channels,
        labelled=conditional,
        validated=config.training.validation.enabled,
        class_names=class_names if conditional else (),
    )
    for doubt in found.doubts:
        warnings.warn(doubt, ConfigWarning, stacklevel=2)
    if conditional:
        check_classes(config, found.train.class_names)
    loading, augmentation = config.data.loading, config.data.augmentation
    jitter = augmentation.color_jitter
    return ImageDataModule(
        found.train,
        found.val if config.training.validation.enabled else None,
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
        remarks=found.remarks.noting(found.doubts),
    )
