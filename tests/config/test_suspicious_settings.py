"""Warnings about settings that are valid but probably not intended."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from diffusion_lab.cli.compose import compose_train_config
from diffusion_lab.config import ConfigWarning, get_default_config, validate_config
from diffusion_lab.faults.sampling_warnings import DEFAULT_SCALES
from tests.config.conftest import CONF, Change
from tests.recorded_warnings import recorded_warnings

CLIP = "training.optimizer.gradient_clip_norm"
SCALE = "training.visualization.guidance_scale"
COUNT = "training.visualization.num_samples"
DROPOUT = "model.conditioning.class_dropout_prob"
CLASSES = {"model.conditioning.type": "class", "model.conditioning.num_classes": 3}
COSINE = {"type": "cosine", "T_max": "auto", "eta_min": 0.0}

SUSPICIOUS: list[tuple[dict[str, object], str]] = [
    ({CLIP: 0.009}, f"{CLIP} = 0.009 nearly stops learning; usual values lie between 0.01 and 100"),
    ({CLIP: 101}, f"{CLIP} = 101 hardly ever clips; usual values lie between 0.01 and 100"),
    (
        {"training.scheduler": {"type": "plateau", "mode": "max"}},
        "training.scheduler.mode = max differs from training.validation.mode = min: the learning rate drops when "
        "training.validation.metric stops moving in one direction, and the best checkpoint is the one furthest in the "
        "other",
    ),
    (
        {"training.scheduler": {**COSINE, "last_epoch": 1}, "training.epochs": 5},
        "training.scheduler.last_epoch = 1 ends the run in epoch 6 of a cosine that reaches its minimum in epoch 5 and "
        "rises again; training.scheduler.T_max=7 ends with the run",
    ),
    (
        {"training.optimizer.maximize": True},
        "training.optimizer.maximize = true maximizes the loss, so that the model unlearns the images",
    ),
    ({SCALE: 1.5}, f"{SCALE} = 1.5 has no effect: the model is unconditional"),
    ({SCALE: 0.5}, f"{SCALE} = 0.5 has no effect: the model is unconditional"),
    *(
        (
            {**CLASSES, COUNT: 9, SCALE: scale, DROPOUT: 0.0},
            f"{SCALE} = {scale:g} weighs the label against an unconditional estimate, which is never trained with "
            f"{DROPOUT} = 0: train with about 0.1, or set the scale to 1",
        )
        for scale in (0.5, 2.0, 7.5)
    ),
    (
        {**CLASSES, COUNT: 8},
        f"{COUNT} = 8 does not divide evenly among 3 classes: the first 2 classes have one more image "
        "(6 or 9 are even)",
    ),
    (
        {**CLASSES, COUNT: 4},
        f"{COUNT} = 4 does not divide evenly among 3 classes: the first class has one more image (3 or 6 are even)",
    ),
    ({**CLASSES, COUNT: 1}, f"{COUNT} = 1 leaves 2 of 3 classes without an image"),
]

USUAL: list[dict[str, object]] = [
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
def collect_garbage() -> None:
    """Collect the objects of earlier tests, so that their warnings do not appear here."""
    gc.collect()


def warnings_of(check: Callable[[], object]) -> list[str]:
    with recorded_warnings() as caught:
        check()
    assert [warning for warning in caught if not issubclass(warning.category, ConfigWarning)] == []
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize(("values", "message"), SUSPICIOUS)
def test_settings_that_are_probably_not_intended_warn(changed: Change, values: dict[str, object], message: str) -> None:
    assert warnings_of(lambda: validate_config(changed(values))) == [message]


@pytest.mark.parametrize("values", USUAL)
def test_usual_settings_do_not_warn(changed: Change, values: dict[str, object]) -> None:
    assert warnings_of(lambda: validate_config(changed(values))) == []


def test_each_suspicious_setting_has_its_own_warning(changed: Change) -> None:
    assert len(warnings_of(lambda: validate_config(changed({**CLASSES, COUNT: 8, CLIP: 1000})))) == 2


def test_generation_settings_do_not_warn_about_the_model(changed: Change, tmp_path: Path) -> None:
    values = {"mode": "generate", "generation.checkpoint": str(tmp_path), CLIP: 1000, SCALE: 9}
    assert warnings_of(lambda: validate_config(changed(values))) == []


@pytest.mark.parametrize("experiment", sorted(path.stem for path in (CONF / "experiment").glob("*.yaml")))
def test_recipes_do_not_warn(
    composed: Callable[..., DictConfig], experiment: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "data" / "train").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert warnings_of(lambda: compose_train_config(composed("train", f"experiment={experiment}"))) == []


def test_the_default_command_does_not_warn(composed: Callable[..., DictConfig]) -> None:
    assert warnings_of(lambda: compose_train_config(composed("train"))) == []


def test_an_image_folder_without_classes_does_not_warn(composed: Callable[..., DictConfig], tmp_path: Path) -> None:
    command = ["data=image_folder", f"data.paths.train={tmp_path}"]
    assert warnings_of(lambda: compose_train_config(composed("train", *command))) == []


def test_default_scales_are_those_of_the_files(composed: Callable[..., DictConfig]) -> None:
    default: Any = get_default_config()
    train, sample = composed("train"), composed("sample", "ckpt=x")
    defaults = (train.training.visualization.guidance_scale, default["training"]["visualization"]["guidance_scale"])
    assert DEFAULT_SCALES["training.visualization.guidance_scale"] == defaults
    assert DEFAULT_SCALES["generation.sampling.guidance_scale"] == (sample.guidance_scale,)
