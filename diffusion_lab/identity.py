"""Which settings and which images a result came from, as two numbers to compare."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from diffusion_lab.config.choice import ChoiceSettings, options_schema
from diffusion_lab.config.evaluated_metrics import is_evaluated
from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.data.source import ImageSource, Subset
from diffusion_lab.determinism import host_generators_seeded
from diffusion_lab.redaction import redacted

WITHOUT_INFLUENCE = frozenset(
    {
        "experiment",
        "name",
        "mode",
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
"""Keys and sections that change no weight of a trained model."""


def config_hash(config: TrainConfig) -> str:
    """SHA-256, in hexadecimal, of the settings that the trained weights depend on.

    It is taken over the settings as JSON with sorted keys, so their order is of no account, and neither is writing out
    a default: what equals its default is left out, so that a later version with a new key gives old settings their old
    hash. Keys without a default are always in it.

    Left out as well is what changes no weight (``WITHOUT_INFLUENCE``): names and folders, loggers, the device, worker
    processes, caches, what is saved, pictured and evaluated and how often (unless the learning rate follows from the
    evaluation), where a run resumes from, and how images are sampled in the end. Secrets, such as an access token,
    count as equal. ``data.paths`` too: which images were learnt is for ``data_fingerprint`` to say, wherever they lay.

    Args:
        config: The settings as checked, with the seed that was drawn in place of ``compute.seed: null``.
    """
    training = config.training
    unread = WITHOUT_INFLUENCE
    if training.scheduler.type == "plateau" and is_evaluated(training.validation.metric):
        unread -= {"evaluation"}  # it drives the learning rate
        if config.evaluation.reads_guidance(config.model.conditioning.type):
            unread -= {"guidance"}
    telling = redacted(_telling(config, "", unread))
    return hashlib.sha256(_canonical(telling).encode()).hexdigest()


def data_fingerprint(source: ImageSource) -> str:
    """SHA-256, in hexadecimal, of the images and labels of a source, as its ``fingerprint`` defines it.

    A source that changes its images at random gives the same ones each time that it is asked here.
    """
    with host_generators_seeded(0):
        return source.fingerprint()


def validation_fingerprint(train: ImageSource, val: ImageSource | None, train_fingerprint: str) -> str | None:
    """Identity of the images that a run validates on; None where there are none.

    Args:
        train: The images trained on.
        val: The images validated on.
        train_fingerprint: Fingerprint of ``train``. Where ``val`` is what was split off the same images, it says both:
            all images, and which of them were kept. Taking another one would read all of them again.
    """
    if val is None:
        return None
    if isinstance(train, Subset) and isinstance(val, Subset) and train.source is val.source:
        return hashlib.sha256(f"split off {train_fingerprint}".encode()).hexdigest()
    return data_fingerprint(val)


def _canonical(tree: Mapping[str, Any]) -> str:
    return json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _telling(section: BaseModel, place: str, unread: frozenset[str]) -> dict[str, Any]:
    """What a section has beyond defaults and the keys ``unread``, empty sections left out."""
    plain = section.model_dump(mode="json")
    found = {}
    for name, field in type(section).model_fields.items():
        value, key = getattr(section, name), f"{place}{name}"
        if key in unread or (not field.is_required() and value == field.get_default(call_default_factory=True)):
            continue
        told = _telling(value, f"{key}.", unread) if isinstance(value, BaseModel) else plain.get(name)
        if told != {} or not isinstance(value, BaseModel):
            found[name] = told
    return found | _telling_options(section)


def _telling_options(section: BaseModel) -> dict[str, Any]:
    """The options of a class by name or path, without those that equal the class's own defaults."""
    options = section.model_dump(mode="json", include=set(section.model_extra or {}))
    if not isinstance(section, ChoiceSettings):
        return options
    schema = options_schema(section.class_of(section.type))
    fields = schema.model_fields if schema else {}
    given = schema.model_validate(section.model_extra) if schema else section
    return {
        name: value
        for name, value in options.items()
        if name not in fields
        or fields[name].is_required()
        or getattr(given, name) != fields[name].get_default(call_default_factory=True)
    }
