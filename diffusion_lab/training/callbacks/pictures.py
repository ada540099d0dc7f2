"""Samples pictures while training, always from the same noise, so that those of successive epochs compare."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console

from diffusion_lab.config.faults import ConfigWarning
from diffusion_lab.epoch_pictures import save_epoch_picture
from diffusion_lab.finiteness import NonFiniteSamplesError
from diffusion_lab.guidance import PLAIN, Guidance
from diffusion_lab.pictures import grid_by_class, grid_of
from diffusion_lab.samplers import Sampler
from diffusion_lab.shapes import to_pixels
from diffusion_lab.training.loggers import log_picture
from diffusion_lab.training.mirror import warn
from diffusion_lab.training.module import DiffusionModule


class Pictures(Callback):
    """Writes ``epoch_0010.png`` and so on, and hands them to the loggers: one row a class where there are classes.

    Args:
        folder: Where they go.
        sampler: The method.
        every_epochs: Epochs from one to the next; the last epoch is always shown.
        num_samples: Images in all, spread evenly over the classes, the remainder over the first ones.
        guidance_scale: Of classifier-free guidance; 0 and 1 are the plain conditional model.
        seed: Of the starting noise.
        guidance: At which noise levels guidance is applied, and how tamed.
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

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        due = epoch % self.every_epochs == 0 or epoch == trainer.max_epochs
        if not due or not isinstance(pl_module, DiffusionModule) or not trainer.is_global_zero:
            return
        denoiser = pl_module.judged
        classes = denoiser.num_classes
        labels = None if classes is None else [index % classes for index in range(self.num_samples)]
        parts = pl_module.sampler.stream(  # whose warnings about guidance were given before training
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
        except NonFiniteSamplesError as error:  # training itself watches its loss; pictures must not end it
            warnings.warn(f"epoch {epoch} has no pictures: {error.finding}", ConfigWarning, stacklevel=2)
            return
        picture = grid_of(pixels) if labels is None else grid_by_class(pixels, labels, denoiser.class_names)
        try:
            save_epoch_picture(picture, self.folder, epoch)
        except OSError as error:  # a picture is not worth a run
            why = error.strerror or error
            warn(
                Console(stderr=True),
                f"the picture of epoch {epoch} could not be written to {self.folder} ({why}): training goes on",
            )
        for logger in trainer.loggers:  # under the step of the validation of this epoch, its last one
            log_picture(logger, "samples", picture, trainer.global_step - 1)
