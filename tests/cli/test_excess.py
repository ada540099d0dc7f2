"""Values with thousands of digits, levels or letters: a fault with its key, for every key and every source."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from diffusion_lab.cli.overrides import refuse_excess
from diffusion_lab.config import ConfigError, get_default_config, validate_config
from diffusion_lab.typed_settings.settings_reader import leaves
from tests.config.conftest import put


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


EXCESSES = {
    "hundreds of digits": 10**400,
    "thousands of digits": 10**6000,
    "more than 64 bits": -(10**30),
    "thousands of digits in a list": [10**6000],
    "hundreds of levels": nested(300),
    "many letters": "x" * 100_000,
}


@pytest.mark.parametrize("name", EXCESSES)
@pytest.mark.parametrize("mode", ["train", "generate"])
def test_every_key(mode: str, name: str) -> None:
    base = get_default_config() | {"mode": mode}
    for key in leaves(base):
        tree = deepcopy(base)
        put(tree, key, EXCESSES[name])
        tree["no_such_key"] = 0  # a fault in any case
        with pytest.raises(ConfigError) as refused:
            validate_config(tree)
        assert len(str(refused.value)) < 5000


def test_a_huge_integer_is_reported_by_its_key() -> None:
    tree = get_default_config()
    put(tree, "training.epochs", 10**6000)
    with pytest.raises(
        ConfigError, match=r"training\.epochs: must be an integer of at most 256 bits, got one of 19932"
    ):
        validate_config(tree)


@pytest.mark.parametrize(
    "argument", ["training.epochs=" + "9" * 5000, "training.epochs=" + "[" * 3000 + "]" * 3000, "a={" * 60 + "}" * 60]
)
def test_arguments_that_crash_hydras_parser_are_refused_first(argument: str) -> None:
    with pytest.raises(ValueError, match=r"^(training\.epochs|a) has "):
        refuse_excess([argument])


def test_arguments_of_usual_size_pass() -> None:
    refuse_excess(["training.epochs=" + "9" * 100, "sampler.spacing=[1,0.5,0.1]", "+a={b:[c,{d:e}]}", "x=((((", "-m"])
