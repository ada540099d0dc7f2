"""The ``training.loss`` section: penalty, weighting, and distribution of the noise levels."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from pydantic import Field

from diffusion_lab.diffusion.penalty import PENALTIES
from diffusion_lab.diffusion.time_distribution import TIME_DISTRIBUTIONS
from diffusion_lab.diffusion.weighting import WEIGHTINGS
from diffusion_lab.typed_settings.choice import ChoiceSettings
from diffusion_lab.typed_settings.section import NameOrPath, Section


class PenaltySettings(ChoiceSettings):
    """``training.loss.penalty``: penalty on the prediction error."""

    KEY = "training.loss.penalty"
    NAMED = PENALTIES
    FILE = "penalty={}"

    type: Annotated[str, NameOrPath(*PENALTIES)] = Field(
        default="mse", description="Penalty on the prediction error; a dotted path names a custom class."
    )


class WeightingSettings(ChoiceSettings):
    """``training.loss.weighting``: weight of the loss at each noise level."""

    KEY = "training.loss.weighting"
    NAMED = WEIGHTINGS
    FILE = "weighting={}"

    type: Annotated[str, NameOrPath(*WEIGHTINGS)] = Field(
        default="uniform", description="Weight of the loss at each noise level; a dotted path names a custom class."
    )


class TimesSettings(ChoiceSettings):
    """``training.loss.times``: distribution of the times, which set the noise levels in training."""

    KEY = "training.loss.times"
    NAMED = TIME_DISTRIBUTIONS
    FILE = "times={}"

    type: Annotated[str, NameOrPath(*TIME_DISTRIBUTIONS)] = Field(
        default="auto",
        description="Distribution of the times; `auto` is the usual one for the noise process, a dotted path names "
        "a custom class.",
    )


class LossSettings(Section):
    """``training.loss``: the denoising loss."""

    penalty: PenaltySettings = Field(default_factory=partial(PenaltySettings.model_validate, {}))
    weighting: WeightingSettings = Field(default_factory=partial(WeightingSettings.model_validate, {}))
    times: TimesSettings = Field(default_factory=partial(TimesSettings.model_validate, {}))
    stratified: bool = Field(
        default=True,
        description="Draw the times of a batch by stratified sampling, which reduces the variance of the loss.",
    )
