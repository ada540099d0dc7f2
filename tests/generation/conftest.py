"""Small generations, whole folders compared."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from diffusion_lab.config import ConfigWarning
from tests.test_generate import config  # noqa: F401 - the fixture


@pytest.fixture(autouse=True)
def no_surprises():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", "generation.sampling.num_samples", ConfigWarning)
        yield


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones too."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
