"""Standard deviation of the training pixels, for ``sigma_data: auto`` of the prediction and weighting ``edm``."""

from __future__ import annotations

import numpy as np

from diffusion_lab.checkpoint import Checkpoint
from diffusion_lab.config.loss_section import WeightingSettings
from diffusion_lab.config.model_section import DiffusionSettings
from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.data.source import ImageSource

MAX_IMAGES = 2048
"""Most images to measure: enough to estimate the deviation to a fraction of a percent."""


def with_measured_sigma_data(config: TrainConfig, images: ImageSource) -> TrainConfig:
    """Return the settings with ``sigma_data: auto`` replaced by the value measured on the images, where it is used.

    The weighting uses the value of the prediction, if that has one.

    Raises:
        ValueError: All pixels are equal.
    """
    diffusion, weighting = config.model.diffusion, config.training.loss.weighting
    if diffusion.prediction == "edm" and diffusion.sigma_data == "auto":
        diffusion = diffusion.model_copy(update={"sigma_data": _measured("model.diffusion.sigma_data", images)})
    if _measures(weighting):
        of_prediction = diffusion.sigma_data if diffusion.prediction == "edm" else "auto"
        key = "training.loss.weighting.sigma_data"
        number = _measured(key, images) if of_prediction == "auto" else of_prediction
        weighting = WeightingSettings.model_validate({"type": "edm", "sigma_data": number})
    return _with(config, diffusion, weighting)


def _measured(key: str, images: ImageSource) -> float:
    sigma_data = round(_deviation(images), 4)
    if sigma_data == 0:
        raise ValueError(f"{key} auto is the standard deviation of the training pixels, which is 0 here")
    return sigma_data


def with_saved_sigma_data(checkpoint: Checkpoint | None, config: TrainConfig) -> TrainConfig:
    """Return the settings with ``sigma_data: auto`` replaced by the values of the checkpoint that a run resumes from.

    The weights were trained with these values; measured again on other images they might differ.
    """
    if checkpoint is None or checkpoint.model is None:
        return config
    diffusion, weighting = config.model.diffusion, config.training.loss.weighting
    if diffusion.sigma_data == "auto":
        diffusion = diffusion.model_copy(update={"sigma_data": checkpoint.model.diffusion.sigma_data})
    match checkpoint.config:
        case {"training": {"loss": {"weighting": {"type": "edm", "sigma_data": float(number)}}}} if _measures(
            weighting
        ):
            weighting = WeightingSettings.model_validate({"type": "edm", "sigma_data": number})
    return _with(config, diffusion, weighting)


def _measures(weighting: WeightingSettings) -> bool:
    return weighting.type == "edm" and weighting.options.get("sigma_data", "auto") == "auto"


def _with(config: TrainConfig, diffusion: DiffusionSettings, weighting: WeightingSettings) -> TrainConfig:
    model = config.model.model_copy(update={"diffusion": diffusion})
    loss = config.training.loss.model_copy(update={"weighting": weighting})
    training = config.training.model_copy(update={"loss": loss})
    return config.model_copy(update={"model": model, "training": training})


def _deviation(images: ImageSource) -> float:
    """Return the standard deviation of all pixels about their common mean, in units of [-1, 1]."""
    chosen = np.unique(np.linspace(0, len(images) - 1, MAX_IMAGES).astype(int))
    pixels = np.stack([images.load(int(index), None) for index in chosen])
    return float(pixels.std(dtype=np.float64)) / 127.5
