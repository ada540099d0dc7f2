"""Names that the schema knows without importing torch are those in the tables next to the classes."""

from __future__ import annotations

from typing import get_args

import pytest

from diffusion_lab.config.data_section import DATA_TYPES
from diffusion_lab.config.model_section import ARCHITECTURE_TYPES, DiffusionSettings
from diffusion_lab.config.optimizer_section import OPTIMIZER_TYPES
from diffusion_lab.config.scheduler_section import SCHEDULER_TYPES
from diffusion_lab.diffusion.parameterization import PARAMETERIZATIONS
from diffusion_lab.diffusion.schedules import BETA_SCHEDULES
from diffusion_lab.networks import NETWORKS
from diffusion_lab.run_images.sources import SOURCES
from diffusion_lab.training.lr_schedules import LR_SCHEDULES
from diffusion_lab.training.optimizers import OPTIMIZERS


@pytest.mark.parametrize(
    ("known", "table"),
    [
        (ARCHITECTURE_TYPES, NETWORKS),
        (DATA_TYPES, SOURCES),
        (OPTIMIZER_TYPES, OPTIMIZERS),
        (SCHEDULER_TYPES, LR_SCHEDULES),
        (get_args(DiffusionSettings.model_fields["beta_schedule"].annotation), BETA_SCHEDULES),
        (get_args(DiffusionSettings.model_fields["prediction"].annotation), PARAMETERIZATIONS),
    ],
)
def test_names_are_those_of_the_table(known: tuple[str, ...], table: dict[str, object]) -> None:
    assert set(known) == set(table)
