"""The tests in this folder run on a CPU in `make test`, as a check of themselves, and on a GPU in `make gpu-check`."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name
