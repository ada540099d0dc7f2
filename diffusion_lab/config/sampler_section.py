"""The ``sampler`` section: which method walks from noise to an image, and its options."""

from __future__ import annotations

import dataclasses
import typing
from typing import Annotated, Any

from pydantic import Field, create_model

from diffusion_lab.config.dotted import load_class
from diffusion_lab.config.section import NameOrPath, PluggableSection, Section
from diffusion_lab.samplers import SAMPLERS

if typing.TYPE_CHECKING:
    from diffusion_lab.samplers import Sampler

DEFAULT_STEPS = 50


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

    None where ``cls`` is no dataclass: its arguments are then checked when it is built.
    """
    if not dataclasses.is_dataclass(cls):
        return None
    hints = typing.get_type_hints(cls, include_extras=True)
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        default: Any = ... if field.default is dataclasses.MISSING else field.default
        if field.default_factory is not dataclasses.MISSING:
            default = Field(default_factory=field.default_factory)
        hint = hints[field.name]
        if typing.get_origin(hint) is tuple:  # YAML has only lists
            hint = Annotated[hint, Field(strict=False)]
        fields[field.name] = (hint, default)
    return create_model(f"{cls.__name__}Options", __base__=Section, **fields)
