"""Draws of custom code from the global generators depend on ``compute.seed`` only, also after resuming."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diffusion_lab.checkpoint import find_checkpoint
from diffusion_lab.checkpoint.files import step_name
from diffusion_lab.data.datamodule import BatchDataset
from diffusion_lab.data.order import Draw
from diffusion_lab.networks import UNet
from diffusion_lab.runs.identity import data_fingerprint
from diffusion_lab.runtime.determinism import seed_default_generators, seed_host_generators
from tests.sameness import assert_equal
from tests.training.tiny import TinySource, resume_of, saved, tiny_run


class DrawingSource(TinySource):
    """Draws when it is created and for each batch, from all three generators."""

    def __init__(self, image_size: int, channels: int) -> None:
        super().__init__(image_size, channels)
        self.images = self.images + np.uint8(random.randrange(20) + np.random.randint(20))

    def load_batch(self, indices: Any, rng: np.random.Generator | None) -> Any:
        drawn = random.randrange(20) + np.random.randint(20) + int(torch.randint(20, ()))
        return super().load_batch(indices, rng) // 2 + np.uint8(drawn)


class DrawingNetwork(UNet):
    """Draws in each forward pass."""

    def forward(self, *arguments: Any) -> Tensor:
        return super().forward(*arguments) * (1 + 0.01 * random.random() + 0.01 * np.random.rand())


OWN = {"data.type": f"{__name__}.DrawingSource", "model.architecture.type": f"{__name__}.DrawingNetwork"}
OWN |= {"training.epochs": 4, "training.ema.decay": 0.9}


def weights(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = saved(find_checkpoint(folder, "last"))["state_dict"]
    return state


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    random.seed(1)  # whatever the process drew before
    np.random.seed(1)
    tiny_run(folder, OWN)
    return folder


@pytest.mark.parametrize("workers", [0, 2])
def test_two_runs_of_one_seed_are_equal(whole: Path, tmp_path: Path, workers: int) -> None:
    random.seed(2)
    np.random.seed(2)
    tiny_run(tmp_path, {**OWN, "data.loading.num_workers": workers})
    assert_equal(weights(tmp_path), weights(whole))


def test_another_seed_gives_other_draws(whole: Path, tmp_path: Path) -> None:
    """The images differ too, not only the draws of the package."""
    tiny_run(tmp_path, {**OWN, "compute.seed": 1, "training.epochs": 1})
    prints = [
        saved(find_checkpoint(folder, "last"))["diffusion_lab"]["data_fingerprint"] for folder in (whole, tmp_path)
    ]
    assert prints[0] != prints[1]


def test_a_resumed_run_draws_what_the_uninterrupted_one_did(whole: Path, tmp_path: Path) -> None:
    tiny_run(tmp_path, {**OWN, **resume_of(whole / "checkpoints" / step_name(6))})
    assert_equal(weights(tmp_path), weights(whole))


def test_a_batch_depends_on_its_seed_alone() -> None:
    dataset = BatchDataset(DrawingSource(8, 1), labelled=False, training=False)
    first, second = (dataset.__getitems__(Draw((0, 1), seed)).images for seed in (5, 6))
    again = dataset.__getitems__(Draw((0, 1), 5)).images
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_draws_inside_do_not_affect_draws_outside() -> None:
    def draws() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    with seed_host_generators(3):
        expected = draws()
    seed_default_generators(0, torch.device("cpu"))
    undisturbed = [draws(), draws()]
    seed_default_generators(0, torch.device("cpu"))
    first = [draws()]
    with seed_host_generators(3):
        assert draws() == expected
    assert [*first, draws()] == undisturbed


def test_a_source_that_draws_has_one_fingerprint() -> None:
    class Jittering(DrawingSource):
        def load(self, index: int, rng: np.random.Generator | None) -> Any:
            return super().load(index, rng) // 2 + np.uint8(np.random.randint(100))

        def fingerprint(self) -> str:
            return super(TinySource.__mro__[1], self).fingerprint()  # by loading

    source = Jittering(8, 1)
    assert data_fingerprint(source) == data_fingerprint(source)


def test_the_generators_of_python_numpy_and_torch_draw_different_numbers() -> None:
    """A source that draws a row from one and a column from another generator covers the complete image."""
    with seed_host_generators(2**40 + 3):
        drawn = [random.random(), np.random.rand(), torch.rand((), dtype=torch.float64).item()]
    assert len({round(number, 6) for number in drawn}) == 3
