"""The sampling method of a call: an object, a name, or a name with options."""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from diffusion_lab.arguments import arguments_named
from diffusion_lab.config.sampler_section import SamplerSettings
from diffusion_lab.config.validate import parse_section
from diffusion_lab.diffusion.schedules import Schedule
from diffusion_lab.faults import ConfigError, faults_of
from diffusion_lab.samplers import SAMPLERS, Sampler
from diffusion_lab.typed_settings.class_options import options_schema

SamplingMethod = Sampler | str | Mapping[str, Any]
"""A sampler; its name or the dotted path of a class; or a mapping with the name as ``type`` and its options."""

NAMES = {"sampler.type": "sampler"}


def resolve_sampler(sampler: SamplingMethod | None, schedule: Schedule) -> Sampler:
    """Return the sampler that the argument ``sampler`` of a call stands for.

    Args:
        sampler: A sampler is returned unchanged; None is DDIM. Without the option ``steps``, a name has the steps of
            its class, or as many as the process has if that is fewer.
        schedule: Noise process of the model.

    Raises:
        TypeError: It is something else.
        ValueError: There is no sampler of that name, it has no such option, or the value of one is out of bounds.
    """
    if isinstance(sampler, Sampler):
        _check_options(sampler)
        return sampler
    if not isinstance(sampler, str | Mapping | None):
        raise TypeError(f"sampler must be {_rule()}, got {reprlib.repr(sampler)}{_hint(sampler)}")
    values = {"type": sampler or "ddim"} if isinstance(sampler, str | None) else dict(sampler)
    with arguments_named(NAMES):
        settings = parse_section(SamplerSettings, values, "sampler", import_classes=True)
    try:
        built = settings.for_process(schedule.most_steps).build()
    except ValueError as error:  # options that contradict each other
        raise ValueError(f"sampler {values}: {error}") from error
    if not isinstance(built, Sampler):
        raise TypeError(f"sampler must be {_rule()}, got a class that is not a Sampler, {values['type']!r}")
    return built


def _check_options(sampler: Sampler) -> None:
    """Check the fields of a sampler that was created without settings, which check them."""
    schema = options_schema(type(sampler))
    if schema is None:
        return
    options = {field.name: getattr(sampler, field.name) for field in dataclasses.fields(sampler) if field.init}
    try:
        schema.model_validate(options)
    except ValidationError as error:
        raise ConfigError(faults_of(error.errors(), options, lambda key: None, "sampler"), "argument") from error


def _rule() -> str:
    return (
        f"a Sampler, the name of one ({', '.join(SAMPLERS)}), or a mapping with the name as type and its options, such "
        "as {'type': 'ddim', 'steps': 20}"
    )


def _hint(sampler: object) -> str:
    return f": create it, {sampler.__name__}()" if isinstance(sampler, type) and issubclass(sampler, Sampler) else ""
