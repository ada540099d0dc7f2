"""The standard deviation of the training pixels, for ``model.diffusion.sigma_data: auto``."""

from __future__ import annotations

from typing import Literal

import numpy as np

from diffusion_lab.checkpoint import Checkpoint
from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.data.source import ImageSource

MOST_IMAGES = 2048
"""Images looked at: of that many pixels the deviation is known to a fraction of a percent."""


def with_measured_sigma_data(config: TrainConfig, images: ImageSource) -> TrainConfig:
    """The settings with a number for ``sigma_data: auto`` where it is read, measured on the images.

    Raises:
        ValueError: All pixels are alike.
    """
    diffusion = config.model.diffusion
    if diffusion.prediction != "edm" or diffusion.sigma_data != "auto":
        return config
    sigma_data = round(_deviation(images), 4)
    if sigma_data == 0:
        raise ValueError(
            "model.diffusion.sigma_data auto is the standard deviation of the training pixels, which is 0 here"
        )
    return _with_sigma_data(config, sigma_data)


def with_sigma_data_of(checkpoint: Checkpoint | None, config: TrainConfig) -> TrainConfig:
    """The settings with the number of the checkpoint that a run resumes from for ``sigma_data: auto``.

    The weights were trained with it; measured again on other images it might be another.
    """
    if checkpoint is None or checkpoint.model is None or config.model.diffusion.sigma_data != "auto":
        return config
    return _with_sigma_data(config, checkpoint.model.diffusion.sigma_data)


def _with_sigma_data(config: TrainConfig, sigma_data: float | Literal["auto"]) -> TrainConfig:
    diffusion = config.model.diffusion.model_copy(update={"sigma_data": sigma_data})
    return config.model_copy(update={"model": config.model.model_copy(update={"diffusion": diffusion})})


def _deviation(images: ImageSource) -> float:
    """Standard deviation of all pixels, in units of [-1, 1], about their common mean."""
    chosen = np.unique(np.linspace(0, len(images) - 1, MOST_IMAGES).astype(int))
    pixels = np.stack([images.load(int(index), None) for index in chosen])
    return float(pixels.std(dtype=np.float64)) / 127.5
