"""Warnings about settings that are allowed and unlikely to be meant."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from diffusion_lab.config import ConfigWarning, get_default_config, validate_config
from diffusion_lab.config.compose import compose_train_config
from diffusion_lab.config.suspicious_settings import UNTOUCHED_SCALES
from tests.config.conftest import CONF, Change
from tests.recorded_warnings import recorded_warnings

CLIP = "training.optimizer.gradient_clip_norm"
SCALE = "training.visualization.guidance_scale"
COUNT = "training.visualization.num_samples"
DROPOUT = "model.conditioning.class_dropout_prob"
CLASSES = {"model.conditioning.type": "class", "model.conditioning.num_classes": 3}
COSINE = {"type": "cosine", "T_max": "auto", "eta_min": 0.0}

DOUBTED: list[tuple[dict[str, object], str]] = [
    ({CLIP: 0.009}, f"{CLIP} = 0.009 nearly stops learning; usual values lie between 0.01 and 100"),
    ({CLIP: 101}, f"{CLIP} = 101 hardly ever clips; usual values lie between 0.01 and 100"),
    (
        {"training.scheduler": {"type": "plateau", "mode": "max"}},
        "training.scheduler.mode = max differs from training.validation.mode = min: the learning rate drops when "
        "training.validation.metric stops going one way, and the best checkpoint is at the other end",
    ),
    (
        {"training.scheduler": {**COSINE, "last_epoch": 1}, "training.epochs": 5},
        "training.scheduler.last_epoch = 1 lets the run end in epoch 6 of a cosine that is down in epoch 5 and rises "
        "after it; training.scheduler.T_max=7 ends with the run",
    ),
    (
        {"training.optimizer.maximize": True},
        "training.optimizer.maximize = true makes the loss as large as it can be, which unlearns the images",
    ),
    ({SCALE: 1.5}, f"{SCALE} = 1.5 has no effect: the model is unconditional"),
    ({SCALE: 0.5}, f"{SCALE} = 0.5 has no effect: the model is unconditional"),
    *(
        (
            {**CLASSES, COUNT: 9, SCALE: scale, DROPOUT: 0.0},
            f"{SCALE} = {scale:g} weighs the label against an unconditional estimate, which is never trained with "
            f"{DROPOUT} = 0: train with 0.1 or so, or set the scale to 1",
        )
        for scale in (0.5, 2.0, 7.5)
    ),
    (
        {**CLASSES, COUNT: 8},
        f"{COUNT} = 8 does not divide evenly among 3 classes: the first 2 classes have one image more "
        "(6 or 9 are even)",
    ),
    (
        {**CLASSES, COUNT: 4},
        f"{COUNT} = 4 does not divide evenly among 3 classes: the first class has one image more (3 or 6 are even)",
    ),
    ({**CLASSES, COUNT: 1}, f"{COUNT} = 1 leaves 2 of 3 classes without an image"),
]

NOT_DOUBTED: list[dict[str, object]] = [
    {},
    *({CLIP: norm} for norm in (0.01, 1.0, 100.0, None)),
    *({SCALE: scale} for scale in (0, 1, 2.0, 3)),
    {**CLASSES, COUNT: 9, SCALE: 7.5},
    *({**CLASSES, COUNT: 9, SCALE: scale, DROPOUT: 0.0} for scale in (0, 1)),
    {**CLASSES, COUNT: 9, SCALE: 7.5, DROPOUT: 0.0, "training.visualization.enabled": False},
    {SCALE: 7.5, "training.visualization.enabled": False},
    {**CLASSES, COUNT: 8, "training.visualization.enabled": False},
    {COUNT: 7},
    {"training.scheduler": {**COSINE, "last_epoch": 0}},
    {"training.scheduler": {**COSINE, "T_max": 7, "last_epoch": 1}, "training.epochs": 5},
    {"training.optimizer.maximize": False},
]


@pytest.fixture(autouse=True, scope="module")
def nothing_left_behind() -> None:
    """What earlier tests left behind is not warned about in these."""
    gc.collect()


def doubts(check: Callable[[], object]) -> list[str]:
    with recorded_warnings() as caught:
        check()
    assert [warning for warning in caught if not issubclass(warning.category, ConfigWarning)] == []
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize(("values", "doubt"), DOUBTED)
def test_what_is_unlikely_to_be_meant_is_a_warning(changed: Change, values: dict[str, object], doubt: str) -> None:
    assert doubts(lambda: validate_config(changed(values))) == [doubt]


@pytest.mark.parametrize("values", NOT_DOUBTED)
def test_what_is_usual_is_no_warning(changed: Change, values: dict[str, object]) -> None:
    assert doubts(lambda: validate_config(changed(values))) == []


def test_each_doubt_is_a_warning_of_its_own(changed: Change) -> None:
    assert len(doubts(lambda: validate_config(changed({**CLASSES, COUNT: 8, CLIP: 1000})))) == 2


def test_generating_leaves_the_doubts_about_a_model_to_its_checkpoint(changed: Change, tmp_path: Path) -> None:
    values = {"mode": "generate", "generation.checkpoint": str(tmp_path), CLIP: 1000, SCALE: 9}
    assert doubts(lambda: validate_config(changed(values))) == []


@pytest.mark.parametrize("experiment", sorted(path.stem for path in (CONF / "experiment").glob("*.yaml")))
def test_no_recipe_gives_a_warning(
    composed: Callable[..., DictConfig], experiment: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "data" / "train").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert doubts(lambda: compose_train_config(composed("train", f"experiment={experiment}"))) == []


def test_no_argument_gives_no_warning(composed: Callable[..., DictConfig]) -> None:
    assert doubts(lambda: compose_train_config(composed("train"))) == []


def test_own_pictures_without_classes_give_no_warning(composed: Callable[..., DictConfig], tmp_path: Path) -> None:
    command = ["data=image_folder", f"data.paths.train={tmp_path}"]
    assert doubts(lambda: compose_train_config(composed("train", *command))) == []


def test_untouched_scales_are_those_that_stand_in_the_files(composed: Callable[..., DictConfig]) -> None:
    default: Any = get_default_config()
    trained, made = composed("train"), composed("sample", "ckpt=x")
    pictures = (trained.training.visualization.guidance_scale, default["training"]["visualization"]["guidance_scale"])
    assert UNTOUCHED_SCALES["training.visualization.guidance_scale"] == pictures
    assert UNTOUCHED_SCALES["generation.sampling.guidance_scale"] == (made.guidance_scale,)
