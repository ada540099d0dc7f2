"""Any content of a settings file is read, or refused quickly with a message of the project."""

from __future__ import annotations

import contextlib
import os
import re
import time
import warnings
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from diffusion_lab.cli.settings_file import read_settings
from diffusion_lab.cli.yaml_file import read_yaml
from diffusion_lab.config import ConfigError, get_default_config, validate_config
from diffusion_lab.typed_settings.settings_reader import leaves
from tests.config.conftest import CONF, put

SECONDS = 5
FIXTURES = Path(__file__).parents[1] / "fixtures"
WHOLE = [file.read_bytes() for folder in (FIXTURES, CONF / "standalone") for file in sorted(folder.rglob("*.yaml"))]
KEYS = sorted(leaves(get_default_config()))
PIECES = r"""
${a} | ${ | } | *a | &a | <<: | !!python/object/apply:os.system [true] | !!binary | !!set {a} | !!timestamp x
2001-99-99 | 1e999 | .nan | [ | { | ? | - | --- | %YAML 9 | 1:2:3 | !!int x | !!bool x | ??? | null | ${${${ | ${.}
' | "\uD800" | = | !!omap [a: 1] | 0o9
"""
SCALARS = (
    *(st.none(), st.booleans(), st.integers(), st.floats()),
    *(st.text(max_size=12), st.dates(), st.binary(max_size=3)),
)
TREES = st.recursive(
    st.one_of(SCALARS),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(KEYS) | st.text(max_size=6) | st.integers() | st.booleans(), inner, max_size=4
        )
    ),
    max_leaves=12,
)

MANY = settings(max_examples=60)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("settings") / "mine.yaml"


@contextlib.contextmanager
def read_or_refused() -> Iterator[None]:
    """Check that only errors of the project are raised, quickly: a ValueError that is not a message of Python."""
    started = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except ValueError as error:
            if not isinstance(error, ConfigError) and "mine.yaml" not in str(error):
                raise AssertionError(f"does not name the file: {error}") from error
    assert time.process_time() - started < SECONDS


@given(st.binary(max_size=200))
@MANY
def test_random_bytes(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with read_or_refused():
        read_settings(file)


@given(st.dictionaries(st.sampled_from([key.partition(".")[0] for key in KEYS]), TREES, max_size=4))
@MANY
def test_random_trees(file: Path, tree: dict[str, Any]) -> None:
    file.write_text(yaml.safe_dump({"mode": "train", **tree}, allow_unicode=True), encoding="utf-8")
    with read_or_refused():
        read_settings(file)


@given(st.data())
@MANY
def test_damaged_copies(file: Path, data: st.DataObject) -> None:
    content = data.draw(st.sampled_from(WHOLE))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content)))
        end = data.draw(st.integers(start, min(len(content), start + 30)))
        piece = data.draw(st.sampled_from(re.findall(r"[^|\n]+", PIECES)).map(str.encode) | st.binary(max_size=4))
        content = content[:start] + piece + content[end:]
    file.write_bytes(content)
    with read_or_refused():
        read_settings(file)


@given(st.dictionaries(st.sampled_from(KEYS) | st.sampled_from(["data", "model", "training"]), TREES, max_size=4))
@MANY
def test_random_values_in_a_tree(values: dict[str, Any]) -> None:
    tree = deepcopy(get_default_config())
    for key, value in sorted(values.items(), reverse=True):  # a key before the section around it
        put(tree, key, value)
    with read_or_refused():
        validate_config(tree)


BOMBS = {
    "aliases of aliases": "a0: &a0 [1,1,1,1,1,1,1,1,1]\n"
    + "".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)),
    "merges of merges": "a0: &a0 {k: 1}\n"
    + "".join(f"a{n}: &a{n} {{<<: [{','.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12)),
    "an alias of itself": "a: &a [*a]",
    "deep lists": "a: " + "[" * 100_000,
    "deep lists that end": "a: " + "[" * 5_000 + "]" * 5_000,
    "deep sections": "".join(f"{' ' * n}a:\n" for n in range(1_000)),
    "many values": "a: [" + "1," * 200_000 + "1]",
    "a huge file": "a: " + "x" * 2_000_000,
    "a huge number": "training: " + "9" * 5_000,
    "a reference within references": "a: " + "${" * 5_000,
    "references that double": "a0: xxxxxxxxxx\n" + "".join(f"a{n}: ${{a{n - 1}}}${{a{n - 1}}}\n" for n in range(1, 40)),
    "references to sections that double": "a0: {k: 1}\n"
    + "".join(f"a{n}: {{b: '${{a{n - 1}}}', c: '${{a{n - 1}}}'}}\n" for n in range(1, 40)),
    "relative references that double": "s:\n  a0: xxxxxxxxxx\n"
    + "".join(f"  a{n}: ${{.a{n - 1}}}${{..s.a{n - 1}}}\n" for n in range(1, 40)),
    "selected references that double": "a0: xxxxxxxxxx\n"
    + "".join(f"a{n}: ${{oc.select:a{n - 1}}}${{oc.select:a{n - 1},1}}\n" for n in range(1, 40)),
    "references of references that double": "a0: xxxxxxxxxx\n"
    + "".join(f"n{n}: a{n - 1}\na{n}: ${{${{n{n}}}}}${{${{n{n}}}}}\n" for n in range(1, 40)),
    "a chain of references": "a0: x\n" + "".join(f"a{n}: ${{a{n - 1}}}\n" for n in range(1, 2000)),
    "a hexadecimal number": "training: {epochs: 0x" + "f" * 50_000 + "}",
    "a number of minutes": "training: {epochs: 1" + ":59" * 50_000 + "}",
    "references in a ring": "a: ${b}\nb: ${c}\nc: ${a}",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_file_made_to_hang_its_reader(file: Path, name: str) -> None:
    file.write_text(BOMBS[name])
    started = time.process_time()
    with pytest.raises(ValueError, match=r"mine\.yaml|settings? (is|are) wrong"):
        read_settings(file)
    assert time.process_time() - started < SECONDS


@pytest.mark.parametrize("text", ["a: 1\nb: ${a}", "a: {b: 1}\nc: ${a.b}/${.a.b}/${oc.env:HOME,x}\nd: ${a}"])
def test_valid_references_are_resolved(file: Path, text: str) -> None:
    file.write_text(text)
    assert read_yaml(file) == OmegaConf.to_container(OmegaConf.create(text), resolve=True)


def test_a_settings_file_that_is_not_a_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "mine.yaml")
    for path in (tmp_path / "mine.yaml", Path("/dev/zero")):
        with pytest.raises(ValueError, match=f"{path} is not a regular file"):
            read_settings(path)


def test_yaml_runs_no_code(file: Path, tmp_path: Path) -> None:
    file.write_text(f"a: !!python/object/apply:os.mkdir [{tmp_path / 'ran'}]")
    with pytest.raises(ValueError, match=r"mine\.yaml is not valid YAML: could not determine a constructor"):
        read_settings(file)
    assert not (tmp_path / "ran").exists()
