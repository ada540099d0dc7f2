"""Callback that samples images during training, always from the same noise, so that epochs can be compared."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image
from rich.console import Console

from diffusion_lab.faults import ConfigWarning
from diffusion_lab.guidance import PLAIN, Guidance
from diffusion_lab.image_grids import class_grid, image_grid
from diffusion_lab.runs.epoch_images import save_epoch_image
from diffusion_lab.samplers import Sampler
from diffusion_lab.sampling.finite_samples import NonFiniteSamplesError
from diffusion_lab.shapes import Pixels, to_pixels
from diffusion_lab.training.callbacks.training_limits import is_last_epoch
from diffusion_lab.training.loggers import log_image, log_images
from diffusion_lab.training.mirror import warn
from diffusion_lab.training.module import DiffusionModule

BY_CLASS = "samples_by_class"
"""Name of the pictures of the classes, which have the names of the classes as captions."""

MOST_CLASSES = 100
"""Most pictures of classes in one step."""


class SampleImages(Callback):
    """Writes grids of samples as ``epoch_0010.png`` and logs them; a conditional model gets one row per class.

    Args:
        folder: Folder of the image files.
        sampler: The sampler.
        every_epochs: Interval in epochs; the last epoch is always sampled.
        num_samples: Total number of images, spread evenly over the classes, the remainder over the first ones.
        guidance_scale: Scale of classifier-free guidance; 0 and 1 are the plain conditional model.
        seed: Seed of the initial noise.
        guidance: Options of guidance: its interval of noise levels and its rescaling.
    """

    def __init__(
        self,
        folder: Path,
        sampler: Sampler,
        every_epochs: int,
        num_samples: int,
        guidance_scale: float,
        seed: int,
        guidance: Guidance = PLAIN,
    ) -> None:
        self.folder = folder
        self.sampler = sampler
        self.every_epochs = every_epochs
        self.num_samples = num_samples
        self.guidance_scale = guidance_scale
        self.seed = seed
        self.guidance = guidance
        self._sampled_epoch = 0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        if epoch % self.every_epochs == 0 or is_last_epoch(trainer):
            self._sample(trainer, pl_module, epoch)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.should_stop and self._sampled_epoch != trainer.current_epoch:  # a later callback ended the run
            self._sample(trainer, pl_module, trainer.current_epoch)

    def _sample(self, trainer: Trainer, pl_module: LightningModule, epoch: int) -> None:
        if not isinstance(pl_module, DiffusionModule) or not trainer.is_global_zero:
            return
        self._sampled_epoch = epoch
        denoiser = pl_module.eval_denoiser
        classes = denoiser.num_classes
        labels = None if classes is None else [index % classes for index in range(self.num_samples)]
        parts = pl_module.sampler.stream(  # its warnings about guidance were given before training
            self.num_samples,
            labels,
            self.guidance_scale,
            sampler=self.sampler,
            guidance=self.guidance,
            seed=self.seed,
            batch_size_name="the batch size of training.visualization",
        )
        try:
            pixels = torch.cat([to_pixels(part.images) for part in parts])
        except NonFiniteSamplesError as error:  # TrainingMonitor watches the loss; samples must not end training
            warnings.warn(f"epoch {epoch} has no sample images: {error.finding}", ConfigWarning, stacklevel=2)
            return
        grid = image_grid(pixels) if labels is None else class_grid(pixels, labels, denoiser.class_names)
        try:
            save_epoch_image(grid, self.folder, epoch)
        except OSError as error:  # not worth ending the run
            why = error.strerror or error
            warn(
                Console(stderr=True),
                f"the sample images of epoch {epoch} could not be written to {self.folder} ({why}): training continues",
            )
        caption = f"after epoch {epoch}"
        step = trainer.global_step - 1  # that of this epoch's validation, which is its last one
        for logger in trainer.loggers:
            log_image(logger, "samples", grid, step, caption)
        if labels is not None:
            log_images(trainer.loggers, BY_CLASS, lambda: by_class(pixels, labels, denoiser.class_names), step)


def by_class(pixels: Pixels, labels: Sequence[int], names: Sequence[str]) -> list[tuple[Image.Image, str]]:
    """Return a picture of each class with its name: as many of its images as every class has.

    Args:
        pixels: The images.
        labels: The class of each image.
        names: Names of the classes; one without a name has its number.
    """
    counts = Counter(labels)
    few = min(counts.values())
    pictures = []
    for label in sorted(counts)[:MOST_CLASSES]:
        indices = [index for index, other in enumerate(labels) if other == label][:few]
        pictures.append((image_grid(pixels[indices], few), names[label] if label < len(names) else f"class {label}"))
    return pictures
