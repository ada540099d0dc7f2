"""The ``sampler`` section: which method walks from noise to an image, and its options."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from diffusion_lab.config.choice import ChoiceSettings
from diffusion_lab.config.section import NameOrPath
from diffusion_lab.samplers import SAMPLERS, Sampler

DEFAULT_STEPS = 50


class SamplerSettings(ChoiceSettings):
    """``sampler``: the method that makes images out of noise; the other keys are options of its ``type``."""

    KEY = "sampler"
    BASE = Sampler
    NAMED = SAMPLERS

    type: Annotated[str, NameOrPath(*SAMPLERS)] = Field(
        default="ddim", description="The method; a dotted path names your own class."
    )


def default_sampler(most_steps: int = DEFAULT_STEPS) -> SamplerSettings:
    """The sampler of a tree that names none: DDIM, with no more steps than the process has."""
    return SamplerSettings.model_validate({"type": "ddim", "steps": min(DEFAULT_STEPS, most_steps)})
