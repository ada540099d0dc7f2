"""Arguments that Hydra's grammar refuses are reported with the quotes that they need."""

from __future__ import annotations

import re
import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from diffusion_lab.cli.overrides import explain_syntax_error


def suggested(message: str) -> list[str]:
    """Return the suggested arguments as the shell would pass them."""
    return [word for line in re.findall(r"type (.*)$", message, re.MULTILINE) for word in shlex.split(line)]


@pytest.mark.parametrize(
    "value",
    ["photos (1)", "lr=1e-3/run", "größe", "it's", 'a "b"', "a{b}c", "Ключ (2)=x", "(", "C:\\photos (1)\\"],
)
def test_a_path_is_suggested_with_quotes(value: str) -> None:
    message = explain_syntax_error(["training.epochs=1", f"data.paths.train={value}"])
    assert message is not None
    assert message.startswith(f"1 argument cannot be parsed:\n  data.paths.train={value}: as a string, type ")
    (override,) = OverridesParser.create().parse_overrides(suggested(message))
    assert override.value() == value


def test_all_arguments_are_reported_at_once() -> None:
    message = explain_syntax_error(["ckpt=a=b", "seed=1", "+x.y=ö"])
    assert message is not None
    assert message.startswith("2 arguments cannot be parsed:")
    assert suggested(message) == ['ckpt="a=b"', '+x.y="ö"']


def test_a_value_split_by_the_shell() -> None:
    message = explain_syntax_error(["data.paths.train=my", "photos"])
    assert message is not None
    assert suggested(message) == ['data.paths.train="my photos"']


def test_a_word_without_a_key() -> None:
    assert (
        explain_syntax_error(["train"])
        == "1 argument cannot be parsed:\n  train: must be key=value, +key=value or ~key"
    )


@pytest.mark.parametrize("argument", ["training.epochs=[1", "labels=[größe]", "sampler={type:ddim"])
def test_errors_in_lists_and_sections_keep_hydras_message(argument: str) -> None:
    message = explain_syntax_error([argument])
    assert message is not None
    assert "type " not in message.splitlines()[1]
    assert len(message.splitlines()[1]) > len(argument) + 10
    assert "https" not in message


@pytest.mark.parametrize("argument", ["a.b=1", "~a", "+a=[1,2]", "model=unet_tiny", "ckpt=a b"])
def test_valid_arguments_need_no_explanation(argument: str) -> None:
    assert explain_syntax_error([argument]) is None
