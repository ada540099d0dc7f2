"""Identity of a result: hashes of its settings and its images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.console.redaction import redacted
from diffusion_lab.data.source import ImageSource, Subset
from diffusion_lab.metric_names import is_evaluated
from diffusion_lab.runtime.determinism import seed_host_generators
from diffusion_lab.typed_settings.choice import ChoiceSettings
from diffusion_lab.typed_settings.class_options import options_schema

WITHOUT_INFLUENCE = frozenset(
    {
        "experiment",
        "name",
        "mode",
        "preview",
        "tune",
        "output",
        "logger",
        "generation",
        "sampler",
        "guidance",
        "compute.device",
        "compute.threads",
        "evaluation",
        "evaluation.cache_dir",
        "data.cache",
        "data.cache_dir",
        "data.paths",
        "data.loading.num_workers",
        "data.loading.pin_memory",
        "training.log_interval",
        "training.checkpointing",
        "training.visualization",
        "training.resume",
    }
)
"""Keys and sections that do not affect the weights of a trained model."""


def config_hash(config: TrainConfig) -> str:
    """Return the SHA-256, in hexadecimal, of the settings that affect the trained weights.

    It covers the settings as JSON with sorted keys, so their order does not matter. Values equal to their defaults are
    excluded, so that a later version with a new key gives old settings the same hash. Keys without a default are always
    included.

    Settings that do not affect the weights (``WITHOUT_INFLUENCE``) are excluded as well: names and folders, loggers,
    the device, worker processes, caches, what is saved, sampled and evaluated and how often (unless the learning rate
    follows from the evaluation), where a run resumes from, and how images are finally sampled. So is ``data.paths``:
    ``data_fingerprint`` identifies the training images, wherever they are stored. Secrets, such as an access token,
    count as equal.

    Args:
        config: The checked settings, with the drawn seed in place of ``compute.seed: null``.
    """
    training = config.training
    excluded = WITHOUT_INFLUENCE
    if training.scheduler.type == "plateau" and is_evaluated(training.validation.metric):
        excluded -= {"evaluation"}  # it drives the learning rate
        if config.evaluation.reads_guidance(config.model.conditioning.type):
            excluded -= {"guidance"}
    relevant = redacted(_relevant_settings(config, "", excluded))
    return hashlib.sha256(_canonical(relevant).encode()).hexdigest()


def data_fingerprint(source: ImageSource) -> str:
    """Return the SHA-256, in hexadecimal, of the images and labels of a source, as defined by its ``fingerprint``.

    A source that changes its images at random returns the same ones at each call.
    """
    with seed_host_generators(0):
        return source.fingerprint()


def validation_fingerprint(train: ImageSource, val: ImageSource | None, train_fingerprint: str) -> str | None:
    """Return the identity of the validation images of a run; None if there are none.

    Args:
        train: The training images.
        val: The validation images.
        train_fingerprint: Fingerprint of ``train``. If ``val`` was split off the same images, it identifies both: all
            images, and the split. Computing another one would read all images again.
    """
    if val is None:
        return None
    if isinstance(train, Subset) and isinstance(val, Subset) and train.source is val.source:
        return hashlib.sha256(f"split off {train_fingerprint}".encode()).hexdigest()
    return data_fingerprint(val)


def _canonical(tree: Mapping[str, Any]) -> str:
    return json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _relevant_settings(section: BaseModel, prefix: str, excluded: frozenset[str]) -> dict[str, Any]:
    """Return the settings of a section except defaults, excluded keys and empty sections."""
    plain = section.model_dump(mode="json")
    relevant = {}
    for name, field in type(section).model_fields.items():
        value, key = getattr(section, name), f"{prefix}{name}"
        if key in excluded or (not field.is_required() and value == field.get_default(call_default_factory=True)):
            continue
        entry = _relevant_settings(value, f"{key}.", excluded) if isinstance(value, BaseModel) else plain.get(name)
        if entry != {} or not isinstance(value, BaseModel):
            relevant[name] = entry
    return relevant | _relevant_options(section)


def _relevant_options(section: BaseModel) -> dict[str, Any]:
    """Return the options of a class by name or path, except those that equal the class's own defaults."""
    options = section.model_dump(mode="json", include=set(section.model_extra or {}))
    if not options or not isinstance(section, ChoiceSettings):
        return options
    schema = options_schema(section.class_of(section.type or ""))
    fields = schema.model_fields if schema else {}
    typed = schema.model_validate(section.model_extra) if schema else section
    return {
        name: value
        for name, value in options.items()
        if name not in fields
        or fields[name].is_required()
        or getattr(typed, name) != fields[name].get_default(call_default_factory=True)
    }
