"""Standalone files are read, overridden and validated, including those of the project."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from diffusion_lab.cli.settings_file import read_settings
from diffusion_lab.config import ConfigDeprecationWarning, ConfigError, GenerateConfig, TrainConfig, get_default_config
from tests.config.conftest import CONF
from tests.typed_settings.own_classes import HERE

FIXTURES = Path(__file__).parents[1] / "fixtures" / "configs" / "diffusion"
STANDALONE = CONF / "standalone"
VALID = FIXTURES.parent / "diffusion_minimal.yaml"

FAULTS: dict[str, tuple[str, ...]] = {
    "missing_data": ("data: required, but missing",),
    "class_without_num_classes": ("model.conditioning.num_classes = null: required with",),
    "attention_length": ("model.architecture.use_attention = [false, false, true]: must have one entry per stage: 2",),
    "beta_order": ("model.diffusion.beta_start = 0.02: must be less than model.diffusion.beta_end, 0.0001",),
    "unknown_metric": ('training.validation.metric = "lossy": must be a metric that the run logs: loss, loss_at_low',),
    "image_size": ("model.architecture.image_size = 9: must be divisible by 2",),
    "mistyped_key": (
        "training.optimizer.learnin_rate = 0.001: unknown key (did you mean 'training.optimizer.learning_rate'?)",
        "training.optimizer.learning_rate: required, but missing",
    ),
    "wrong_type": ('training.optimizer.learning_rate = "fast": must be a number',),
    "out_of_bounds": ("training.ema.decay = 2.0: must be less than 1",),
    "reference": ('compute.seed = "${sed}": cannot be resolved',),
    "mode": ("mode = \"training\": must be 'train' or 'generate' (did you mean 'train'?)",),
    "checkpoint": ("generation.checkpoint = null: must be an existing checkpoint file or run folder",),
    "several": (
        'data.loading.batch_size = "many": must be an integer',
        "model.architecture.use_attention = [true]: must have one entry per stage: 2",
        "training.ema.decay = 2.0: must be less than 1",
        "training.epochs = 0: must be at least 1",
        "training.optimizer.learnin_rate = 0.001: unknown key (did you mean 'training.optimizer.learning_rate'?)",
    ),
}


def tree_of(file: Path) -> dict[str, Any]:
    tree: dict[str, Any] = yaml.safe_load(file.read_text())
    return tree


def test_every_fixture_is_tested() -> None:
    assert {file.stem for file in FIXTURES.glob("invalid_*.yaml")} == {f"invalid_{name}" for name in FAULTS}


def test_the_minimal_file_is_valid_and_has_only_what_v2_requires() -> None:
    config = read_settings(VALID)
    assert isinstance(config, TrainConfig)
    extensions = {"data": {"type"}, "": {"sampler"}}
    given, default = tree_of(VALID), get_default_config()
    assert given.keys() - default.keys() == extensions[""]
    assert given["data"].keys() - default["data"].keys() == extensions["data"]
    assert config.experiment == "minimal"


@pytest.mark.parametrize("name", FAULTS)
def test_each_kind_of_fault(name: str) -> None:
    file = FIXTURES / f"invalid_{name}.yaml"
    with pytest.raises(ConfigError) as caught:
        read_settings(file)
    lines = str(caught.value).splitlines()[1:]
    for start in FAULTS[name]:
        (line,) = (line for line in lines if line.strip().startswith(start))
        if "missing" not in line:
            assert f"{file.name}:" in line
    assert name == "several" or len(lines) == len(FAULTS[name])


def test_the_line_of_a_fault_is_that_of_its_key() -> None:
    file = FIXTURES / "invalid_out_of_bounds.yaml"
    with pytest.raises(ConfigError) as caught:
        read_settings(file)
    origin = caught.value.faults[0].location
    assert origin is not None
    line = int(origin.rpartition(":")[2])
    assert file.read_text().splitlines()[line - 1].strip() == "decay: 2.0"


def test_the_first_line_of_a_fixture_says_what_is_wrong() -> None:
    for file in FIXTURES.glob("invalid_*.yaml"):
        assert file.read_text().startswith("# Wrong")


def test_overrides_are_those_of_hydra() -> None:
    config = read_settings(VALID, ["training.epochs=3", "model.architecture.channel_multipliers=[2,2]", "~sampler"])
    assert isinstance(config, TrainConfig)
    assert config.training.epochs == 3
    assert config.model.architecture.channel_multipliers == (2, 2)
    assert config.sampler.options["steps"] == 20  # of the process, which has no more


def test_a_fault_of_an_override_comes_from_the_command_line() -> None:
    with pytest.raises(ConfigError, match=r"training\.epoch = 3: unknown key .*\[command line\]"):
        read_settings(VALID, ["training.epoch=3"])


@pytest.mark.parametrize("override", ["training.epochs", "=[", "training.epochs=[1"])
def test_an_override_that_cannot_be_read(override: str) -> None:
    with pytest.raises(ValueError, match="1 argument cannot be parsed:\n  "):
        read_settings(VALID, [override])


def test_deleting_a_missing_key() -> None:
    with pytest.raises(ConfigError, match=r"training\.epoch: cannot be deleted"):
        read_settings(VALID, ["~training.epoch"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "is not valid YAML"),
        ("a: 1\na: 2", "is not valid YAML"),
        ("", "contains no settings"),
        ("- 1", "contains no settings"),
        ("3", "contains no settings"),
    ],
)
def test_invalid_settings_files(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "file.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_settings(file)
    assert "\n" not in str(caught.value)


def test_a_binary_file_and_a_missing_one(tmp_path: Path) -> None:
    file = tmp_path / "file.yaml"
    file.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ValueError, match="is not valid YAML"):
        read_settings(file)
    with pytest.raises(FileNotFoundError):
        read_settings(tmp_path / "none.yaml")


def test_the_complete_training_file_is_the_default_tree() -> None:
    assert tree_of(STANDALONE / "default.yaml") == get_default_config()


def test_the_complete_files_are_valid(tmp_path: Path) -> None:
    config = read_settings(STANDALONE / "default.yaml", [f"data.paths.train={tmp_path}"])
    assert isinstance(config, TrainConfig)
    assert isinstance(
        read_settings(STANDALONE / "generate.yaml", [f"generation.checkpoint={tmp_path}"]), GenerateConfig
    )


def test_the_complete_old_file_says_so_in_its_first_line_and_still_runs(tmp_path: Path) -> None:
    file = STANDALONE / "legacy.yaml"
    assert "V1" in file.read_text().splitlines()[0]
    with pytest.warns(ConfigDeprecationWarning, match="migrate_config_v1_to_v2") as caught:
        config = read_settings(file, [f"data.paths.train={tmp_path}"])
    assert isinstance(config, TrainConfig)
    assert config.training.visualization.num_samples == 4 * 2
    assert sum("V1" in str(warning.message) for warning in caught) == 1


def test_keys_that_the_network_of_the_file_does_not_take_are_refused(tmp_path: Path) -> None:
    """One file sets the class and the keys, so that none of them remains from elsewhere."""
    tree = get_default_config()
    tree["model"]["architecture"]["type"] = f"{HERE}.NarrowNet"
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump(tree), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_settings(file)
    keys = {fault.key.rpartition(".")[2] for fault in caught.value.faults if "takes no such argument" in fault.rule}
    assert keys == {"channel_multipliers", "use_attention"}
