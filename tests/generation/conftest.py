"""Small generations, with complete folders compared."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import pytest

from diffusion_lab.config import ConfigWarning
from diffusion_lab.generation.generate import generate
from diffusion_lab.runtime.exit_on_signals import Terminated
from diffusion_lab.sampling import DiffusionSampler, SampleBatch
from tests.generation.test_generate import config  # noqa: F401 - the fixture

ALL = {"save_individual": True, "save_grid": True, "save_npz": True}
WAYS = [
    ALL,
    {"save_individual": False, "save_grid": True, "save_npz": True},
    {"save_individual": False, "save_grid": True, "save_npz": False},
    {"save_individual": False, "save_grid": False, "save_npz": False},
]
BATCHES = {"num_samples": 11, "batch_size": 4}


@pytest.fixture(autouse=True)
def fail_on_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", "generation.sampling.num_samples", ConfigWarning)
        yield


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones too."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def drawn(monkeypatch):
    """Numbers of the images that were sampled; ``stop`` is after how many batches the sampling is interrupted."""
    seen = []
    stream = DiffusionSampler.stream

    def watched(self, *arguments, **options):
        for batch in stream(self, *arguments, **options):
            if watch.stop == 0:
                raise Terminated
            watch.stop -= 1
            seen.extend(range(batch.first, batch.first + len(batch.images)))
            yield SampleBatch(batch.first, batch.images)

    @dataclasses.dataclass
    class Watch:
        stop: int = -1

        def take(self):
            taken = seen[:]
            seen.clear()
            return taken

    watch = Watch()
    monkeypatch.setattr(DiffusionSampler, "stream", watched)
    return watch


def made(settings):
    return generate(settings, show_progress=False)
