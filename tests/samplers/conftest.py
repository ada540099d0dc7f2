"""Data whose denoiser and whose ODE are known exactly, under every noise process."""

from __future__ import annotations

import pytest

from diffusion_lab.evaluation.exact import GaussianData
from tests.diffusion.processes import PROCESSES


@pytest.fixture(params=PROCESSES)
def data(request: pytest.FixtureRequest) -> GaussianData:
    """One pixel, distributed as N(0.3, 0.25)."""
    return GaussianData(PROCESSES[request.param])
