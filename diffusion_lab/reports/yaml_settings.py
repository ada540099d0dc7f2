"""Reading settings files quickly, and without trust in what they contain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from diffusion_lab.files.reading import read_regular

MAX_BYTES = 2**20
MAX_DEPTH = 60
"""The parser in C crashes at some tens of thousands of levels."""

MAX_NODES = 100_000
"""Values of a file, with those that it repeats by reference."""

# The parser in C is ten times as fast, which 200 settings files need.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(file: Path) -> Any:
    """Return the content of a YAML file.

    Raises:
        OSError: It cannot be read, or is too large.
        ValueError: It is not UTF-8, nested too deeply, or repeats so much by reference that it would fill the memory.
        yaml.YAMLError: It is not valid YAML.
    """
    text = read_regular(file, MAX_BYTES).decode("utf-8")
    _check_size(text)
    return yaml.load(text, _LOADER)


def _check_size(text: str) -> None:
    """Count depth and nodes by the events of the parser, which need no recursion."""
    sizes: dict[str | None, int] = {}
    open_nodes: list[tuple[str | None, int]] = [(None, 0)]  # anchor, and nodes inside so far
    for event in yaml.parse(text, _LOADER):
        if isinstance(event, yaml.AliasEvent):
            size = sizes.get(event.anchor, 1)
        elif isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, 1))
            if len(open_nodes) > MAX_DEPTH:
                raise ValueError("it is nested too deeply")
            continue
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_nodes.pop()
            if anchor is not None:
                sizes[anchor] = size
        elif isinstance(event, yaml.ScalarEvent):
            size = 1
            if event.anchor is not None:
                sizes[event.anchor] = 1
        else:
            continue
        anchor, inside = open_nodes.pop()
        open_nodes.append((anchor, inside + size))
        if inside + size > MAX_NODES:
            raise ValueError("it has too many values")
