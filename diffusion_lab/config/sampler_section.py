"""The ``sampler`` section: the sampling method and its options."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, PrivateAttr

from diffusion_lab.samplers import SAMPLERS
from diffusion_lab.typed_settings.choice import ChoiceSettings
from diffusion_lab.typed_settings.section import NameOrPath

DEFAULT_STEPS = 50


class SamplerSettings(ChoiceSettings):
    """``sampler``: the sampling method; the other keys are options of its ``type``."""

    KEY = "sampler"
    NAMED = SAMPLERS
    FILE = "sampler={}"
    ONLY_TRAINING = False

    type: Annotated[str, NameOrPath(*SAMPLERS)] = Field(
        default="ddim", description="The sampling method; a dotted path names a custom class."
    )

    _steps_are_default: bool = PrivateAttr(default=False)

    def __eq__(self, other: object) -> bool:
        """Return whether the settings are equal, regardless of where the number of steps comes from."""
        return isinstance(other, SamplerSettings) and self.model_dump() == other.model_dump()

    __hash__ = ChoiceSettings.__hash__

    def with_default_steps(self) -> Self:
        """Return the same sampler with its number of steps marked as a default."""
        sampler = self.model_copy()
        sampler._steps_are_default = True
        return sampler

    def for_process(self, most_steps: int | None) -> Self:
        """Return the same sampler for a process of ``most_steps`` timesteps, or None for one in continuous time.

        A default number of steps is reduced to that of the process; a number that was set explicitly stays.
        """
        options = self.options
        if most_steps is None or ("steps" in options and not self._steps_are_default):
            return self
        steps = options.get("steps", getattr(self.build(), "steps", None))
        if not isinstance(steps, int) or steps <= most_steps:
            return self
        return self.model_validate({"type": self.type, **options, "steps": most_steps})


def default_sampler() -> SamplerSettings:
    """Return the sampler of a tree that names none: DDIM."""
    return SamplerSettings.model_validate({"type": "ddim", "steps": DEFAULT_STEPS}).with_default_steps()
