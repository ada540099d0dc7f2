from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hydra import compose
from omegaconf import DictConfig

from diffusion_lab.cli.hydra_app import initialized_hydra
from diffusion_lab.config import get_default_config

CONF = Path(__file__).parents[2] / "conf"

Change = Callable[..., dict[str, Any]]


def put(tree: dict[str, Any], key: str, value: object) -> None:
    *sections, name = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
    tree[name] = value


def drop(tree: dict[str, Any], key: str) -> None:
    *sections, name = key.split(".")
    for section in sections:
        tree = tree[section]
    del tree[name]


@pytest.fixture
def default(tmp_path: Path) -> dict[str, Any]:
    """Return the default tree with an existing training folder."""
    tree = get_default_config()
    put(tree, "data.paths.train", str(tmp_path))
    return tree


@pytest.fixture
def changed(default: dict[str, Any]) -> Change:
    """Return the default tree with some values changed, by dotted key."""

    def change(values: dict[str, object]) -> dict[str, Any]:
        tree = deepcopy(default)
        for key, value in values.items():
            put(tree, key, value)
        return tree

    return change


@pytest.fixture
def composed() -> Iterator[Callable[..., DictConfig]]:
    """Compose like a command line."""
    with initialized_hydra("app", CONF):
        yield lambda script, *overrides: compose(script, list(overrides))
