"""What Hydra's grammar refuses is told with the quotes that make it readable."""

from __future__ import annotations

import re
import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from diffusion_lab.config.overrides import explain_syntax_error


def suggested(said: str) -> list[str]:
    """The arguments that are to be typed, as the shell hands them over."""
    return [word for line in re.findall(r"type (.*)$", said, re.MULTILINE) for word in shlex.split(line)]


@pytest.mark.parametrize(
    "value",
    ["photos (1)", "lr=1e-3/run", "größe", "it's", 'a "b"', "a{b}c", "Ключ (2)=x", "(", "C:\\photos (1)\\"],
)
def test_a_path_is_told_with_its_quotes(value: str) -> None:
    said = explain_syntax_error(["training.epochs=1", f"data.paths.train={value}"])
    assert said is not None
    assert said.startswith(f"1 argument cannot be parsed:\n  data.paths.train={value}: as a string, type ")
    (override,) = OverridesParser.create().parse_overrides(suggested(said))
    assert override.value() == value


def test_all_are_told_at_once() -> None:
    said = explain_syntax_error(["ckpt=a=b", "seed=1", "+x.y=ö"])
    assert said is not None
    assert said.startswith("2 arguments cannot be parsed:")
    assert suggested(said) == ['ckpt="a=b"', '+x.y="ö"']


def test_a_space_that_the_shell_split_at() -> None:
    said = explain_syntax_error(["data.paths.train=my", "photos"])
    assert said is not None
    assert suggested(said) == ['data.paths.train="my photos"']


def test_a_word_without_a_key() -> None:
    assert (
        explain_syntax_error(["train"])
        == "1 argument cannot be parsed:\n  train: must be key=value, +key=value or ~key"
    )


@pytest.mark.parametrize("argument", ["training.epochs=[1", "labels=[größe]", "sampler={type:ddim"])
def test_a_list_or_section_is_told_in_hydras_words(argument: str) -> None:
    said = explain_syntax_error([argument])
    assert said is not None
    assert "type " not in said.splitlines()[1]
    assert len(said.splitlines()[1]) > len(argument) + 10
    assert "https" not in said


@pytest.mark.parametrize("argument", ["a.b=1", "~a", "+a=[1,2]", "model=unet_tiny", "ckpt=a b"])
def test_what_can_be_read_needs_no_word(argument: str) -> None:
    assert explain_syntax_error([argument]) is None
