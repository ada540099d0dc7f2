"""What the metric of a run is a measure of: results are ranked only where that is the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diffusion_lab.config.evaluated_metrics import is_evaluated, watched_direction
from diffusion_lab.config.faults import shown
from diffusion_lab.config.loss_section import LossSettings
from diffusion_lab.config.model_section import PROCESS_OPTIONS, DiffusionSettings
from diffusion_lab.config.reading import leaves
from diffusion_lab.config.schema import GuidanceSettings
from diffusion_lab.config.training_evaluation import TrainingEvaluationSettings

IMAGES = "validation images"
"""Stands beside the keys of the settings for what is known of the images by their fingerprint."""

ABSENT = "not set"
OF_DISCRETE_STEPS = ("num_timesteps", "beta_schedule", "beta_start", "beta_end")
SHOWN_CHARACTERS = 40


def measured_by(settings: Mapping[str, Any], fingerprints: Mapping[str, Any]) -> dict[str, Any]:
    """By dotted key, all that gives the value of the validation metric its meaning.

    A metric of the evaluation compares samples with real images. It means the same whatever the noise process, the
    prediction and the loss are, as long as the samples are as many and made in the same way.

    Otherwise the metric is the denoising loss on the validation images. It is an average over the noise levels that the
    process and the distribution of times visit, of an error whose unit is that of the prediction, multiplied by the
    weighting; with other images, another size or other labels it is another average again. Not part of it is what a
    sweep tries for a lower value: the network, the optimizer, the schedule of the learning rate, the averages of the
    weights, augmentation, which seed.

    Args:
        settings: Of a run that has finished, so that they have been checked.
        fingerprints: Its summary, which identifies the images that it was trained on, ``data_fingerprint``, and
            validated on, ``validation_fingerprint``; what is not known is absent.
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
    if watched_direction(training["validation"]) != "min":
        measured["training.validation.mode"] = "max"
    if model["conditioning"]["type"] is not None:
        measured["model.conditioning.class_dropout_prob"] = model["conditioning"]["class_dropout_prob"]
    return leaves(measured)


def _by_evaluation(settings: Mapping[str, Any], fingerprints: Mapping[str, Any]) -> dict[str, Any]:
    model, validation = settings["model"], settings["training"]["validation"]
    section = TrainingEvaluationSettings.model_validate(dict(settings.get("evaluation") or {}))
    of_value = section.model_dump(mode="json", exclude={"enabled", "every", "metrics", "cache_dir", "weights"})
    images = "validation_fingerprint" if section.split == "val" else "data_fingerprint"
    measured = {
        "evaluation": of_value,
        "training.validation.metric": validation["metric"],
        "model.architecture.image_size": model["architecture"]["image_size"],
        "model.architecture.in_channels": model["architecture"]["in_channels"],
        "model.conditioning.type": model["conditioning"]["type"],
        IMAGES: fingerprints.get(images),
    }
    if section.reads_guidance(model["conditioning"]["type"]):
        measured["guidance"] = GuidanceSettings.model_validate(settings.get("guidance") or {}).model_dump(mode="json")
    if watched_direction(validation) != "min":
        measured["training.validation.mode"] = "max"
    return measured


def _process(diffusion: Mapping[str, Any], loss: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the noise process that it reads, and the prediction."""
    tree = DiffusionSettings.model_validate(dict(diffusion)).model_dump(mode="json")
    unread = set()
    if tree["type"] in PROCESS_OPTIONS and tree["type"] != "discrete":
        unread = set(OF_DISCRETE_STEPS)
    elif tree["beta_schedule"] == "cosine":
        unread = {"beta_start", "beta_end"}
    if "edm" not in (tree["prediction"], (loss.get("weighting") or {}).get("type")):
        unread.add("sigma_data")
    return {name: value for name, value in tree.items() if name not in unread}


def _loss(loss: Mapping[str, Any]) -> dict[str, Any]:
    """Penalty, weighting and times, with the options that are left to their defaults."""
    checked = LossSettings.model_validate(dict(loss))
    parts = {"penalty": checked.penalty, "weighting": checked.weighting, "times": checked.times}
    return {name: part.complete().model_dump(mode="json") for name, part in parts.items()}


def difference(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """For each group of comparable results, in words, what sets it apart from the others.

    >>> difference([{"prediction": "v", "image_size": 8}, {"prediction": "epsilon", "image_size": 8}])
    ['prediction "v"', 'prediction "epsilon"']
    """
    keys = list(dict.fromkeys(key for group in groups for key in group))
    varying = [key for key in keys if any(group.get(key, ABSENT) != groups[0].get(key, ABSENT) for group in groups)]
    told = []
    for group in groups:
        parts = [f"{key} {shown(group[key], SHOWN_CHARACTERS)}" for key in varying if key in group and key != IMAGES]
        if IMAGES in varying:
            parts.append(f"{IMAGES} {str(group.get(IMAGES))[:8]}…")
        told.append(", ".join(parts))
    return told
