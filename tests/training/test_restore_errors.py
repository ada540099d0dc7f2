"""A damaged training state is one error that names the checkpoint, before the first step."""

from __future__ import annotations

import random
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from diffusion_lab.checkpoint import find_checkpoint, load_tensors
from tests.checkpoint.hostile import WRONG, places, replaced
from tests.training.tiny import resume_of, tiny_run


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Checkpoint of a run of one epoch."""
    folder = tmp_path_factory.mktemp("first")
    tiny_run(folder, {"training.epochs": 1})
    return load_tensors(find_checkpoint(folder, "last"))


def resumed(content: Any, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    torch.save(content, folder / "hostile.ckpt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tiny_run(folder / "again", {"training.epochs": 2, **resume_of(folder / "hostile.ckpt")})


PARTS = {
    "optimizer_states": ("empty text", "null", "bytes", "list"),
    "lr_schedulers": ("null", "enormous", "dict"),
    "loops": ("set", "list", "negative", "empty text"),
    "callbacks": ("thousands of bits", "deep list", "text"),
    "randomness": ("negative", "text"),
    "ImageDataModule": ("set", "text", "tensor"),
    "pytorch-lightning_version": ("empty dict", "fraction", "null"),
    "diffusion_lab": ("enormous", "list", "text"),
}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_of_the_wrong_type_is_one_error(first: dict[str, Any], tmp_path: Path, part: str) -> None:
    for number, wrong in enumerate(PARTS[part]):
        with pytest.raises(ValueError, match=r"hostile\.ckpt"):
            resumed(replaced(first, (part,), WRONG[wrong]), tmp_path / str(number))


@pytest.mark.parametrize("seed", range(3))
def test_any_field_of_the_wrong_type_is_one_error_or_irrelevant(
    first: dict[str, Any], tmp_path: Path, seed: int
) -> None:
    draw = random.Random(seed)
    for number in range(5):
        part, wrong = draw.choice(list(PARTS)), draw.choice(list(WRONG))
        place = draw.choice([place for place in places(first) if place[0] == part])
        try:
            resumed(replaced(first, place, WRONG[wrong]), tmp_path / str(number))
        except ValueError as error:
            assert "hostile.ckpt" in str(error), (place, wrong)  # noqa: PT017 - some fields are not read


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("optimizer_states", 0, "state", 0, "exp_avg"), torch.zeros(2)),
        (("optimizer_states", 0, "state", 0, "step"), torch.zeros(2)),
        (("optimizer_states", 0, "state", 0), {"step": torch.tensor(1.0)}),
        (("optimizer_states", 0, "param_groups", 0, "eps"), "text"),
        (("optimizer_states", 0, "param_groups", 0, "betas"), [0.9]),
        (("optimizer_states", 0, "param_groups", 0, "betas"), [0.9, "text"]),
        (("loops", "fit_loop", "epoch_progress", "current", "ready"), 0.5),
        (("callbacks", "Checkpoints", "best_step"), 10**40),
    ],
    ids=str,
)
def test_a_state_that_would_fail_later_is_refused_before_the_first_step(
    first: dict[str, Any], tmp_path: Path, path: tuple[Any, ...], value: Any
) -> None:
    with pytest.raises(ValueError, match=r"cannot resume from .*hostile\.ckpt: its training state is damaged"):
        resumed(replaced(first, path, value), tmp_path)


def test_a_valid_checkpoint_is_resumed(first: dict[str, Any], tmp_path: Path) -> None:
    resumed(first, tmp_path)
