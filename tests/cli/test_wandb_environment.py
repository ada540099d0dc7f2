"""W&B's environment variables apply if neither the command line nor the file sets the key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from diffusion_lab.cli.compose import compose_train_config
from diffusion_lab.cli.key_locations import composed_key_locations
from diffusion_lab.config.schema import LoggerSettings
from diffusion_lab.faults import ConfigError

Composed = Callable[..., DictConfig]


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MODE", "DISABLED", "PROJECT", "ENTITY", "NAME", "RUN_GROUP", "DIR"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)


VARIABLES = [
    ("WANDB_MODE", "online", "mode", "online"),
    ("WANDB_MODE", "disabled", "mode", "disabled"),
    ("WANDB_MODE", "dryrun", "mode", "offline"),
    ("WANDB_DISABLED", "true", "mode", "disabled"),
    ("WANDB_DISABLED", "false", "mode", "offline"),
    ("WANDB_PROJECT", "flowers", "project", "flowers"),
    ("WANDB_ENTITY", "us", "entity", "us"),
    ("WANDB_NAME", "first try", "name", "first try"),
    ("WANDB_RUN_GROUP", "roses", "group", "roses"),
    ("WANDB_DIR", "/scratch", "dir", Path("/scratch")),
    ("WANDB_PROJECT", "", "project", "diffusion_lab"),
]


@pytest.mark.parametrize(("variable", "value", "key", "expected"), VARIABLES)
def test_a_variable_applies(
    variable: str, value: str, key: str, expected: Any, composed: Composed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    assert getattr(compose_train_config(composed("train")).logger, key) == expected
    assert getattr(LoggerSettings.model_validate({"backends": ["wandb"]}), key) == expected


@pytest.mark.parametrize(("key", "typed"), [("mode", "offline"), ("project", "p"), ("group", "g"), ("name", "n")])
def test_typed_values_take_precedence(
    key: str, typed: str, composed: Composed, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value, _, _ in VARIABLES[:1] + VARIABLES[5:9]:
        monkeypatch.setenv(variable, value)
    assert getattr(compose_train_config(composed("train", f"logger.{key}={typed}")).logger, key) == typed
    assert getattr(LoggerSettings.model_validate({"backends": ["wandb"], key: typed}), key) == typed


def test_without_variables_the_defaults_are_as_documented(composed: Composed) -> None:
    logger = compose_train_config(composed("train")).logger
    assert (logger.mode, logger.project, logger.entity) == ("offline", "diffusion_lab", None)
    assert (logger.group, logger.name, logger.dir) == ("digits", None, None)


@pytest.mark.parametrize("arguments", [[], ["experiment=fast_debug"]])
def test_an_invalid_variable_is_a_fault_of_its_key(
    arguments: list[str], composed: Composed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    with pytest.raises(
        ConfigError, match=r'logger\.mode = "sometimes": must be .*\[environment variable WANDB_MODE\]$'
    ):
        compose_train_config(composed("train", *arguments), lambda: composed_key_locations("train", arguments))


def test_a_typed_value_is_not_attributed_to_the_variable(composed: Composed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    arguments = ["logger.mode=sometimes"]
    with pytest.raises(ConfigError, match=r"\[command line\]$"):
        compose_train_config(composed("train", *arguments), lambda: composed_key_locations("train", arguments))
