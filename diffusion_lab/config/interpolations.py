"""References within settings (``${key}``), followed without being resolved: a few of them can ask for endless text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

MOST_CHARACTERS = 2**20
"""Of settings with all references written out; those of a run are a hundredth of it."""

MOST_LEVELS = 150
"""Sections within sections, and references that lead from one to the next, together."""

UNKNOWN_TARGET = MOST_CHARACTERS // 16
"""What a reference counts whose target depends on another reference: at most sixteen are written out."""

KEY_RESOLVERS = ("oc.select", "oc.dict.values", "oc.dict.keys")
"""Resolvers whose first argument is the key of a value."""


def check_interpolations(tree: Any, source: str) -> None:
    """Refuse settings that become huge when their references are resolved.

    Args:
        tree: Plain containers, references unresolved.
        source: Names the settings in errors.

    Raises:
        ValueError: More than ``MOST_CHARACTERS`` characters with all references written out, more than
            ``MOST_LEVELS`` levels, or a reference that leads back to itself.
    """
    try:
        size = _Sizes(tree).of((), 0)
    except _Endless as fault:
        raise ValueError(f"{source} has references that cannot be resolved: {fault}") from None
    if size > MOST_CHARACTERS:
        raise ValueError(
            f"{source} has references that cannot be resolved: written out, the settings would have more than "
            f"{MOST_CHARACTERS} characters"
        )


class _Endless(Exception):
    """A chain of references that is too long, or a ring."""


Path = tuple[Any, ...]


class _Sizes:
    """Characters of values with all references written out, each computed once."""

    def __init__(self, tree: Any) -> None:
        self.tree = tree
        self.known: dict[Path, int] = {}
        self.open: set[Path] = set()

    def of(self, path: Path, levels: int) -> int:
        if path in self.known:
            return self.known[path]
        place = ".".join(map(str, path))
        if path in self.open:
            raise _Endless(f"{place} refers to itself")
        if levels > MOST_LEVELS:
            raise _Endless(f"more than {MOST_LEVELS} of them and of sections lead from one to the next, up to {place}")
        self.open.add(path)
        value = self._value(path)
        if isinstance(value, dict):
            size = sum(len(str(key)) + self.of((*path, key), levels + 1) for key in value)
        elif isinstance(value, list):
            size = sum(self.of((*path, index), levels + 1) for index in range(len(value)))
        else:
            size = 1 + (self._of_text(value, path, levels) if isinstance(value, str) else 0)
        self.open.discard(path)
        self.known[path] = min(size, MOST_CHARACTERS + 1)
        return self.known[path]

    def _of_text(self, text: str, path: Path, levels: int) -> int:
        size = len(text)
        for target in references(text):
            if target is None:
                size += UNKNOWN_TARGET
            else:
                found = self._target(target, path)
                size += 0 if found is None else self.of(found, levels + 1)
        return size

    def _target(self, key: str, path: Path) -> Path | None:
        """The path of a key as it stands in a reference; None where there is nothing."""
        dots = len(key) - len(key.lstrip("."))
        here: Path = path[: max(len(path) - dots, 0)] if dots else ()
        value = self._value(here)
        for part in filter(None, re.split(r"[.\[\]]+", key)):
            if isinstance(value, str) and "${" in value:
                return here  # of what that leads to, this is a part
            children = value if isinstance(value, dict) else dict(enumerate(value)) if isinstance(value, list) else {}
            name = next((child for child in children if str(child) == part), None)
            if name is None:
                return None
            here, value = (*here, name), children[name]
        return here

    def _value(self, path: Path) -> Any:
        value = self.tree
        for part in path:
            value = value[part]
        return value


def references(text: str) -> Iterator[str | None]:
    """Yield the keys that a text refers to, None for a key that is itself made of references.

    >>> list(references("${a.b}/${..c}/${oc.env:HOME}/${x.${y}}"))
    ['a.b', '..c', 'y', None]
    """
    starts: list[int] = []
    for found in re.finditer(r"\$\{|\}", text):
        if found[0] == "${":
            starts.append(found.end())
        elif starts:
            content = text[starts.pop() : found.start()]
            resolver, colon, argument = content.partition(":")
            if colon and resolver.strip() in KEY_RESOLVERS:
                content, colon = argument.partition(",")[0], ""
            if not colon:
                yield None if "${" in content else content.strip()
