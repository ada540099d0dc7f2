"""Each fault names the location of its key: file and line, or the command line."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from hydra import compose

from diffusion_lab.cli.compose import compose_generate_config, compose_train_config
from diffusion_lab.cli.hydra_app import initialized_hydra
from diffusion_lab.cli.key_locations import composed_key_locations, file_key_locations, job_key_locations
from diffusion_lab.config import ConfigError
from tests.config.conftest import CONF


def faults_of_train(*overrides: str) -> dict[str, str | None]:
    with (
        initialized_hydra("app", CONF),
        pytest.raises(ConfigError) as caught,
    ):
        compose_train_config(
            compose("train", list(overrides)), partial(composed_key_locations, "train", list(overrides))
        )
    return {fault.key: fault.location for fault in caught.value.faults}


def line_of(file: Path, text: str) -> int:
    return next(number for number, line in enumerate(file.read_text().splitlines(), 1) if line.strip().startswith(text))


def test_a_typed_value_comes_from_the_command_line() -> None:
    assert faults_of_train("training.ema.decay=2") == {"training.ema.decay": "command line"}


def test_a_typed_section_is_the_location_of_its_keys() -> None:
    assert faults_of_train("training.ema={enabled:true,decay:2}") == {"training.ema.decay": "command line"}


def test_a_value_of_a_group_file_comes_from_its_line() -> None:
    file = CONF / "data" / "image_folder.yaml"
    (origin,) = faults_of_train("data=image_folder").values()
    assert origin is not None
    assert origin.endswith(f"data/image_folder.yaml:{line_of(file, 'train:')}")


def test_choosing_a_file_is_not_typing_its_values() -> None:
    (origin,) = faults_of_train("model=unet_small", "model.architecture.channel_multipliers=[1]").values()
    assert origin is not None
    assert "model/unet_small.yaml" in origin


def test_a_value_that_repeats_another_comes_from_where_that_was_set() -> None:
    typed = ["ckpt=/nowhere"]
    with (
        initialized_hydra("app", CONF),
        pytest.raises(ConfigError) as caught,
    ):
        compose_generate_config(compose("sample", typed), partial(composed_key_locations, "sample", typed))
    assert [fault.location for fault in caught.value.faults] == ["command line"]


def test_a_missing_key_has_no_location() -> None:
    assert faults_of_train("~training.ema.decay") == {"training.ema.decay": None}


def test_later_statements_win_and_lists_are_one_value(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("a:\n  b: [1,\n    2]\n  c: {}\nd: ${a.b}\n")
    locations = file_key_locations(file, ["a.c=3"])
    assert locations.location_of("a.b[1]") == f"{file}:2"
    assert locations.location_of("a.c") == "command line"
    assert locations.location_of("d") == f"{file}:2"
    assert locations.location_of("e") is None


def test_references_in_a_circle_end(tmp_path: Path) -> None:
    file = tmp_path / "circle.yaml"
    file.write_text("a: ${b}\nb: ${a}\n")
    assert file_key_locations(file).location_of("a") == f"{file}:1"


def test_outside_of_a_job_nothing_is_known() -> None:
    assert job_key_locations().location_of("training.epochs") is None
