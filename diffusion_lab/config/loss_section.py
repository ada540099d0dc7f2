"""The ``training.loss`` section: what an error costs, how much it counts, and at which noise levels it is taken."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from diffusion_lab.config.choice import ChoiceSettings
from diffusion_lab.config.section import NameOrPath, Section
from diffusion_lab.diffusion.penalty import PENALTIES, Penalty
from diffusion_lab.diffusion.time_distribution import TIME_DISTRIBUTIONS, TimeDistribution
from diffusion_lab.diffusion.weighting import WEIGHTINGS, Weighting


class PenaltySettings(ChoiceSettings):
    """``training.loss.penalty``: what an error of the network's output costs."""

    KEY = "training.loss.penalty"
    BASE = Penalty
    NAMED = PENALTIES

    type: Annotated[str, NameOrPath(*PENALTIES)] = Field(
        default="mse", description="The cost of an error; a dotted path names your own class."
    )


class WeightingSettings(ChoiceSettings):
    """``training.loss.weighting``: how much an error counts at each noise level."""

    KEY = "training.loss.weighting"
    BASE = Weighting
    NAMED = WEIGHTINGS

    type: Annotated[str, NameOrPath(*WEIGHTINGS)] = Field(
        default="uniform", description="The weight of a noise level; a dotted path names your own class."
    )


class TimesSettings(ChoiceSettings):
    """``training.loss.times``: how often training visits each noise level."""

    KEY = "training.loss.times"
    BASE = TimeDistribution
    NAMED = TIME_DISTRIBUTIONS

    type: Annotated[str, NameOrPath(*TIME_DISTRIBUTIONS)] = Field(
        default="auto",
        description="Distribution of the times; `auto` is the usual one of the noise process, a dotted path names "
        "your own class.",
    )


class LossSettings(Section):
    """``training.loss``: the denoising loss."""

    penalty: PenaltySettings = Field(default_factory=PenaltySettings)
    weighting: WeightingSettings = Field(default_factory=WeightingSettings)
    times: TimesSettings = Field(default_factory=TimesSettings)
    stratified: bool = Field(
        default=True,
        description="Spread the times of a batch evenly over their distribution: the loss varies less.",
    )
