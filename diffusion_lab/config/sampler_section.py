"""The ``sampler`` section: which method walks from noise to an image, and its options."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import Field, PydanticUserError, create_model

from diffusion_lab.config.dotted import load_class
from diffusion_lab.config.section import NameOrPath, PluggableSection, Section
from diffusion_lab.samplers import SAMPLERS

if typing.TYPE_CHECKING:
    from diffusion_lab.samplers import Sampler

DEFAULT_STEPS = 50

SAMPLER_OPTIONS = {name: tuple(field.name for field in dataclasses.fields(cls)) for name, cls in SAMPLERS.items()}
"""Keys that each type of sampler reads."""


class SamplerSettings(PluggableSection):
    """``sampler``: the method that makes images out of noise; the other keys are options of its ``type``."""

    type: Annotated[str, NameOrPath(*SAMPLERS)] = Field(
        default="ddim", description="The method; a dotted path names your own class."
    )

    def build(self) -> Sampler:
        """The sampler itself. Raises ValueError where its class cannot be imported or refuses an option."""
        cls, options = sampler_class(self.type), self.extra_options
        schema = options_schema(cls)
        return cls(**(schema.model_validate(options).model_dump(exclude_unset=True) if schema else options))


def default_sampler(most_steps: int = DEFAULT_STEPS) -> SamplerSettings:
    """The sampler of a tree that names none: DDIM, with no more steps than the process has."""
    return SamplerSettings.model_validate({"type": "ddim", "steps": min(DEFAULT_STEPS, most_steps)})


def sampler_class(name: str) -> type[Sampler]:
    """The class behind ``sampler.type``: one of SAMPLERS, or imported from a dotted path."""
    return SAMPLERS[name] if name in SAMPLERS else load_class(name, "sampler.type")


def options_schema(cls: type[Any]) -> type[Section] | None:
    """The fields of a dataclass as a strict section, with the bounds that its annotations carry.

    None where ``cls`` is no dataclass, or one whose annotations mean nothing here: its options are then passed on
    as they are.
    """
    if not dataclasses.is_dataclass(cls):
        return None
    settable = [field for field in dataclasses.fields(cls) if field.init]
    if list(inspect.signature(cls).parameters) != [field.name for field in settable]:
        return None  # it has an __init__ of its own
    try:
        return _section_of(cls, settable)
    except (NameError, PydanticUserError):  # annotations that cannot be resolved, or are no types of plain values
        return None


def _section_of(cls: type[Any], settable: Iterable[dataclasses.Field[Any]]) -> type[Section]:
    hints = typing.get_type_hints(cls, include_extras=True)
    fields: dict[str, Any] = {}
    for field in settable:
        default: Any = ... if field.default is dataclasses.MISSING else field.default
        if field.default_factory is not dataclasses.MISSING:
            default = Field(default_factory=field.default_factory)
        hint = hints[field.name]
        if typing.get_origin(hint) is tuple:  # YAML has only lists
            hint = Annotated[hint, Field(strict=False)]
        fields[field.name] = (hint, default)
    return create_model(f"{cls.__name__}Options", __base__=Section, **fields)
