"""Predictions that were set explicitly, and those that are only defaults of a file of the project."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from diffusion_lab.cli import default_prediction
from diffusion_lab.cli.default_prediction import PROJECT_FILE, prediction_is_default
from diffusion_lab.cli.key_locations import KeyLocations
from diffusion_lab.config.schema import GenerateConfig, TrainConfig

CONF = Path(__file__).parents[2] / "conf"
TREE = {"model": {"diffusion": {"prediction": "v"}}}


def locations(file: Path, *overrides: str) -> KeyLocations:
    package = "model.diffusion" if file.parent.name == "diffusion" else ""
    return KeyLocations(lambda found: found.add_file(file, package), overrides)


def test_every_file_of_the_project_that_sets_it_is_known() -> None:
    files = [file for file in CONF.rglob("*.yaml") if re.search(r"^ *prediction:", file.read_text(), re.MULTILINE)]
    assert files
    assert [file for file in files if not PROJECT_FILE.search(f"{file}:3")] == []


@pytest.mark.parametrize(
    ("overrides", "default"),
    [
        ((), True),
        (("diffusion.num_timesteps=3",), True),
        (("model.diffusion={num_timesteps: 20}",), True),
        (("model.diffusion.prediction=v",), False),
        (("model.diffusion={prediction: v}",), False),
        (("model={diffusion: {prediction: v}}",), False),
    ],
)
def test_a_typed_prediction_is_explicit(overrides: tuple[str, ...], default: bool) -> None:
    places = locations(CONF / "diffusion" / "cosine.yaml", *overrides)
    assert prediction_is_default(GenerateConfig, TREE, places, None) is default


@pytest.mark.parametrize("name", ["diffusion/mine.yaml", "diffusion/cosine.yaml", "experiment/mine.yaml"])
def test_a_prediction_in_a_users_file_is_explicit(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.parent.mkdir()
    text = "prediction: v\n" if name.startswith("diffusion") else "model:\n  diffusion:\n    prediction: v\n"
    file.write_text(text)
    assert not prediction_is_default(GenerateConfig, TREE, locations(file), str(tmp_path))


def test_a_file_added_to_the_project_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "diffusion" / "mine.yaml"
    file.parent.mkdir()
    file.write_text("prediction: v\n")
    assert not prediction_is_default(GenerateConfig, TREE, locations(file), None)
    monkeypatch.setattr(default_prediction, "CONF", tmp_path)
    assert prediction_is_default(GenerateConfig, TREE, locations(file), None)


def test_it_matters_to_a_run_that_resumes() -> None:
    places = locations(CONF / "diffusion" / "cosine.yaml")
    resumed = {"training": {"resume": {"enabled": True}}, **TREE}
    assert prediction_is_default(TrainConfig, resumed, places, None)
    assert not prediction_is_default(TrainConfig, {"training": {"resume": {"enabled": False}}, **TREE}, places, None)
