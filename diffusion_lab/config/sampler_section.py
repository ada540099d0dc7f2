"""The ``sampler`` section: which method walks from noise to an image, and its options."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, PrivateAttr

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

    _steps_are_default: bool = PrivateAttr(default=False)

    def __eq__(self, other: object) -> bool:
        """Whether the settings are the same, wherever the number of steps comes from."""
        return isinstance(other, SamplerSettings) and self.model_dump() == other.model_dump()

    __hash__ = ChoiceSettings.__hash__

    def with_default_steps(self) -> Self:
        """The same sampler, of which nobody has asked for its number of steps."""
        sampler = self.model_copy()
        sampler._steps_are_default = True
        return sampler

    def for_process(self, most_steps: int | None) -> Self:
        """The same sampler for a process of ``most_steps``, None where it has no steps of its own.

        Steps that are only the default are as many as the process has, where that is fewer. Those that somebody has
        asked for stay.
        """
        options = self.extra_options
        if most_steps is None or ("steps" in options and not self._steps_are_default):
            return self
        steps = options.get("steps", getattr(self.build(), "steps", None))
        if not isinstance(steps, int) or steps <= most_steps:
            return self
        return self.model_validate({"type": self.type, **options, "steps": most_steps})


def default_sampler() -> SamplerSettings:
    """The sampler of a tree that names none: DDIM."""
    return SamplerSettings.model_validate({"type": "ddim", "steps": DEFAULT_STEPS}).with_default_steps()
