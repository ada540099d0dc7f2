"""Data module of a training run, created from its settings."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from diffusion_lab.checkpoint import Checkpoint
from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.data.augmentation import Augmentation
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.data.source import ImageSource, Subset
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
    train, val = sources.train, sources.val if config.training.validation.enabled else None
    overfit = config.training.overfit_batches
    if overfit is not None:
        train = _fixed_batches(train, overfit, loading.batch_size, "training")
        val = None if val is None else _fixed_batches(val, overfit, loading.batch_size)
    return ImageDataModule(
        train,
        val,
        batch_size=loading.batch_size,
        num_workers=loading.num_workers,
        pin_memory=loading.pin_memory,
        shuffle=loading.shuffle_train and overfit is None,
        drop_last=loading.drop_last,
        augmentation=None
        if overfit is not None
        else Augmentation(
            horizontal_flip=augmentation.horizontal_flip,
            rotation_degrees=augmentation.rotation_degrees,
            jitter_strength=jitter.strength if jitter.enabled else 0.0,
        ),
        labelled=conditional,
        seed=seed,
        worker_timeout=loading.worker_timeout,
        remarks=sources.remarks.with_notes(sources.warnings),
    )


def _fixed_batches(source: ImageSource, batches: int, batch_size: int, required_of: str | None = None) -> ImageSource:
    """Return the images of a number of batches, spread evenly over a source; all if it has fewer.

    Raises:
        ValueError: It has fewer batches, and ``required_of``, its name, is given.
    """
    most = -(-len(source) // batch_size)
    if required_of is not None and batches > most:
        raise ValueError(
            f"training.overfit_batches must be at most {most}, the batches of the {len(source)} {required_of} images, "
            f"got {batches}"
        )
    chosen = np.unique(np.linspace(0, len(source) - 1, min(batches * batch_size, len(source)), dtype=np.int64))
    # Images that were split off stay recognizable as such.
    fixed = Subset(source.source, source.indices[chosen]) if isinstance(source, Subset) else Subset(source, chosen)
    fixed.varies = False  # no random crop
    return fixed
