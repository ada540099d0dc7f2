from __future__ import annotations

import doctest
from pathlib import Path
from types import ModuleType

import pytest

from diffusion_lab.config import (
    compose,
    defaults,
    derive_image_size_from_model,
    derive_return_labels_from_model,
    get_default_config,
    parse_config,
    resolve_output_path,
    validate,
)
from tests.config.conftest import Change


@pytest.mark.parametrize("module", [compose, defaults, validate], ids=lambda module: module.__name__)
def test_examples_in_docstrings(module: ModuleType) -> None:
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


def test_default_tree_is_new_each_time() -> None:
    get_default_config()["model"]["architecture"]["channel_multipliers"].append(8)
    assert get_default_config()["model"]["architecture"]["channel_multipliers"] == [1, 2, 4]


@pytest.mark.parametrize("name", ["logs", "checkpoints", "samples", "generated"])
def test_output_path(changed: Change, name: str) -> None:
    tree = changed({"output.base_dir": "runs/a", f"output.subdirs.{name}": "b/c"})
    assert resolve_output_path(tree, name) == Path("runs/a/b/c")
    assert parse_config(tree).output.folder(name) == Path("runs/a/b/c")  # type: ignore[arg-type]


def test_unknown_output_path_is_named(changed: Change) -> None:
    with pytest.raises(ValueError, match=r"output\.subdirs\.checkpoint: unknown .* \(did you mean 'checkpoints'\?\)"):
        resolve_output_path(changed({}), "checkpoint")


def test_derived_from_the_model(changed: Change) -> None:
    assert derive_image_size_from_model(changed({"model.architecture.image_size": 8})) == 8
    conditional = {"model.conditioning.type": "class", "model.conditioning.num_classes": 2}
    assert derive_return_labels_from_model(changed(conditional)) is True
    assert derive_return_labels_from_model(changed({"model.conditioning.num_classes": 2})) is False


def test_nothing_is_derived_from_a_tree_that_does_not_say() -> None:
    with pytest.raises(ValueError, match=r"model\.architecture\.image_size: required, but missing"):
        derive_image_size_from_model({"model": {}})
    with pytest.raises(ValueError, match=r"model\.conditioning\.type: required, but missing"):
        derive_return_labels_from_model({})
    with pytest.raises(ValueError, match=r"output\.base_dir: required, but missing"):
        resolve_output_path({}, "logs")
