"""Checkpoints in the project's format with each field replaced in turn."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def doubling(levels: int) -> list[Any]:
    """A few lists that share their parts: written out, they would fill any memory."""
    value: list[Any] = ["x"]
    for _ in range(levels):
        value = [value, value]
    return value


WRONG: dict[str, Any] = {
    "null": None,
    "true": True,
    "text": "\x1b[2Jtext",
    "empty text": "",
    "surrogate": "\udcff",
    "list": ["a", 1],
    "empty list": [],
    "dict": {"a": 1},
    "empty dict": {},
    "numbers as keys": {1: 2, (1, 2): 3},
    "negative": -1,
    "fraction": 0.5,
    "nan": float("nan"),
    "infinity": float("inf"),
    "large": 10**9,
    "enormous": 10**70,
    "thousands of bits": 1 << 2000,
    "deep list": nested(90),
    "deeper list": nested(300),
    "doubling list": doubling(60),
    "tensor": torch.zeros(2),
    "integers": torch.zeros(2, dtype=torch.int64),
    "scalar": torch.tensor(1.0),
    "complex": torch.zeros(2, dtype=torch.complex64),
    "no numbers": torch.zeros(0),
    "repeated": torch.zeros(1).expand(10**12),
    "bytes": b"\xff\x00",
    "set": {1, 2},
}


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value in a checkpoint, containers before their contents."""
    if path:
        yield path
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from places(value, (*path, key))
    elif isinstance(tree, list | tuple):
        for index, value in enumerate(tree[:2]):
            yield from places(value, (*path, index))


def replaced(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Return a copy with another value at a path; everything off that path is shared."""
    key, *rest = path
    changed = copy.copy(tree) if isinstance(tree, dict) else list(tree)
    changed[key] = replaced(tree[key], tuple(rest), value) if rest else value
    return changed
