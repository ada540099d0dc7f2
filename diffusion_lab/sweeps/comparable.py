"""Measured quantity of a run's metric: results are ranked only if they measure the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diffusion_lab.config.evaluation_section import TrainingEvaluationSettings
from diffusion_lab.config.loss_section import LossSettings
from diffusion_lab.config.model_section import PROCESSES, DiffusionSettings
from diffusion_lab.config.schema import GuidanceSettings
from diffusion_lab.faults import shown
from diffusion_lab.metric_names import is_evaluated, validation_direction
from diffusion_lab.typed_settings.settings_reader import leaves

IMAGES = "validation images"
"""Key for the fingerprint of the images, listed along with the keys of the settings."""

ABSENT = "not set"
DISCRETE_KEYS = ("num_timesteps", "beta_schedule", "beta_start", "beta_end")
SHOWN_CHARACTERS = 40


def measured_by(settings: Mapping[str, Any], fingerprints: Mapping[str, Any]) -> dict[str, Any]:
    """Return, by dotted key, everything that determines what the validation metric measures.

    A metric of the evaluation compares samples with real images. It measures the same for any noise process,
    prediction and loss, as long as the number of samples and the sampling method are the same.

    Otherwise the metric is the denoising loss on the validation images: an average over the noise levels of the process
    and the distribution of times, of an error in units of the prediction, multiplied by the weighting. Other images,
    sizes or labels give a different average. Settings that a sweep varies to lower the value are not included: the
    network, the optimizer, the learning-rate schedule, EMA, augmentation, the seed.

    Args:
        settings: Settings of a finished run, which have been validated.
        fingerprints: Its summary, with the fingerprints of the images that it was trained on, ``data_fingerprint``, and
            validated on, ``validation_fingerprint``; unknown ones are absent.
    """
    model, training = settings["model"], settings["training"]
    validation_fingerprint = fingerprints.get("validation_fingerprint")
    if is_evaluated(training["validation"]["metric"]):
        return leaves(_by_evaluation(settings, fingerprints))
    measured = {
        "model.diffusion": _process(model["diffusion"], training.get("loss") or {}),
        "training.loss": _loss(training.get("loss") or {}),
        "training.validation.metric": training["validation"]["metric"],
        "model.architecture.image_size": model["architecture"]["image_size"],
        "model.architecture.in_channels": model["architecture"]["in_channels"],
        "model.conditioning.type": model["conditioning"]["type"],
        IMAGES: validation_fingerprint,
    }
    if validation_direction(training["validation"]) != "min":
        measured["training.validation.mode"] = "max"
    if model["conditioning"]["type"] is not None:
        measured["model.conditioning.class_dropout_prob"] = model["conditioning"]["class_dropout_prob"]
    return leaves(measured)


def _by_evaluation(settings: Mapping[str, Any], fingerprints: Mapping[str, Any]) -> dict[str, Any]:
    model, validation = settings["model"], settings["training"]["validation"]
    section = TrainingEvaluationSettings.model_validate(dict(settings.get("evaluation") or {}))
    section_values = section.model_dump(mode="json", exclude={"enabled", "every", "metrics", "cache_dir", "weights"})
    images = "validation_fingerprint" if section.split == "val" else "data_fingerprint"
    measured = {
        "evaluation": section_values,
        "training.validation.metric": validation["metric"],
        "model.architecture.image_size": model["architecture"]["image_size"],
        "model.architecture.in_channels": model["architecture"]["in_channels"],
        "model.conditioning.type": model["conditioning"]["type"],
        IMAGES: fingerprints.get(images),
    }
    if section.reads_guidance(model["conditioning"]["type"]):
        measured["guidance"] = GuidanceSettings.model_validate(settings.get("guidance") or {}).model_dump(mode="json")
    if validation_direction(validation) != "min":
        measured["training.validation.mode"] = "max"
    return measured


def _process(diffusion: Mapping[str, Any], loss: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that the noise process uses, and the prediction."""
    tree = DiffusionSettings.model_validate(dict(diffusion)).model_dump(mode="json")
    unused = set()
    if tree["type"] in PROCESSES and tree["type"] != "discrete":
        unused = set(DISCRETE_KEYS)
    elif tree["beta_schedule"] == "cosine":
        unused = {"beta_start", "beta_end"}
    if "edm" not in (tree["prediction"], (loss.get("weighting") or {}).get("type")):
        unused.add("sigma_data")
    return {name: value for name, value in tree.items() if name not in unused}


def _loss(loss: Mapping[str, Any]) -> dict[str, Any]:
    """Return penalty, weighting and times, including options at their defaults."""
    checked = LossSettings.model_validate(dict(loss))
    parts = {"penalty": checked.penalty, "weighting": checked.weighting, "times": checked.times}
    return {name: part.complete().model_dump(mode="json") for name, part in parts.items()}


def difference(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a description of each group of comparable results: the values that distinguish it from the others.

    >>> difference([{"prediction": "v", "image_size": 8}, {"prediction": "epsilon", "image_size": 8}])
    ['prediction "v"', 'prediction "epsilon"']
    """
    keys = list(dict.fromkeys(key for group in groups for key in group))
    varying = [key for key in keys if any(group.get(key, ABSENT) != groups[0].get(key, ABSENT) for group in groups)]
    descriptions = []
    for group in groups:
        parts = [f"{key} {shown(group[key], SHOWN_CHARACTERS)}" for key in varying if key in group and key != IMAGES]
        if IMAGES in varying:
            images = group.get(IMAGES)
            parts.append(f"{IMAGES} {f'{images:.8}…' if isinstance(images, str) else 'unknown'}")
        descriptions.append(", ".join(parts))
    return descriptions
