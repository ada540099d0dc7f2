"""Names that the schema knows without importing torch are those in the tables next to the classes."""

from __future__ import annotations

import inspect
from typing import get_args

import pytest

from diffusion_lab.config.data_section import DATA_SETS, NoOptions
from diffusion_lab.config.model_section import DiffusionSettings
from diffusion_lab.config.schema import CHOICES
from diffusion_lab.diffusion.parameterization import PARAMETERIZATIONS
from diffusion_lab.diffusion.schedules import BETA_SCHEDULES, DiscreteSchedule
from diffusion_lab.run_images.sources import SOURCES
from diffusion_lab.typed_settings.choice import Options


@pytest.mark.parametrize(
    ("known", "table"),
    [
        (tuple(name for name, named in DATA_SETS.items() if named is NoOptions), SOURCES),
        (get_args(DiffusionSettings.model_fields["beta_schedule"].annotation), BETA_SCHEDULES),
        (get_args(DiffusionSettings.model_fields["prediction"].annotation), PARAMETERIZATIONS),
    ],
)
def test_names_are_those_of_the_table(known: tuple[str, ...], table: dict[str, object]) -> None:
    assert set(known) == set(table)


@pytest.mark.parametrize(
    ("choice", "name"),
    [
        pytest.param(choice, name, id=f"{choice.KEY}: {name}")
        for choice in CHOICES
        for name, named in choice.NAMED.items()
        if isinstance(named, type) and issubclass(named, Options) and "CLASS" in vars(named)
    ],
)
def test_declared_options_are_arguments_of_the_class(choice: type, name: str) -> None:
    """The options of classes that import torch are stated twice."""
    if choice.class_of(name) is not DiscreteSchedule:  # built from betas
        assert choice.options_of(name).keys() <= set(inspect.signature(choice.class_of(name)).parameters)
