"""References in settings (``${key}``), checked without resolving them: a few can expand to an endless string."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

MAX_CHARACTERS = 2**20
"""Limit for settings with all references resolved; those of a run have about a hundredth."""

MAX_LEVELS = 150
"""Limit for nested sections and chained references together."""

UNKNOWN_TARGET = MAX_CHARACTERS // 16
"""Assumed size of a reference whose target depends on another reference: at most sixteen are allowed."""

KEY_RESOLVERS = ("oc.select", "oc.dict.values", "oc.dict.keys")
"""Resolvers whose first argument is the key of a value."""


def check_interpolations(tree: Any, source: str) -> None:
    """Refuse settings that become huge when their references are resolved.

    Args:
        tree: Plain containers, references unresolved.
        source: Name of the settings in error messages.

    Raises:
        ValueError: More than ``MAX_CHARACTERS`` characters with all references resolved, more than ``MAX_LEVELS``
            levels, or a circular reference.
    """
    try:
        size = _Sizes(tree).size_of((), 0)
    except _Endless as fault:
        raise ValueError(f"{source} has references that cannot be resolved: {fault}") from None
    if size > MAX_CHARACTERS:
        raise ValueError(
            f"{source} has references that cannot be resolved: resolved, the settings would have more than "
            f"{MAX_CHARACTERS} characters"
        )


class _Endless(Exception):
    """A chain of references that is too long or circular."""


Path = tuple[Any, ...]


class _Sizes:
    """Characters of values with all references resolved, each computed once."""

    def __init__(self, tree: Any) -> None:
        self.tree = tree
        self.known: dict[Path, int] = {}
        self.open: set[Path] = set()

    def size_of(self, path: Path, levels: int) -> int:
        if path in self.known:
            return self.known[path]
        dotted = ".".join(map(str, path))
        if path in self.open:
            raise _Endless(f"{dotted} refers to itself")
        if levels > MAX_LEVELS:
            raise _Endless(f"more than {MAX_LEVELS} chained references and nested sections, up to {dotted}")
        self.open.add(path)
        value = self._value(path)
        if isinstance(value, dict):
            size = sum(len(str(key)) + self.size_of((*path, key), levels + 1) for key in value)
        elif isinstance(value, list):
            size = sum(self.size_of((*path, index), levels + 1) for index in range(len(value)))
        else:
            size = 1 + (self._size_of_string(value, path, levels) if isinstance(value, str) else 0)
        self.open.discard(path)
        self.known[path] = min(size, MAX_CHARACTERS + 1)
        return self.known[path]

    def _size_of_string(self, text: str, path: Path, levels: int) -> int:
        size = len(text)
        for target in references(text):
            if target is None:
                size += UNKNOWN_TARGET
            else:
                target_path = self._target(target, path)
                size += 0 if target_path is None else self.size_of(target_path, levels + 1)
        return size

    def _target(self, key: str, path: Path) -> Path | None:
        """Return the path of the key in a reference, or None if it does not exist."""
        dots = len(key) - len(key.lstrip("."))
        current: Path = path[: max(len(path) - dots, 0)] if dots else ()
        value = self._value(current)
        for part in filter(None, re.split(r"[.\[\]]+", key)):
            if isinstance(value, str) and "${" in value:
                return current  # the key is a part of what that refers to
            children = value if isinstance(value, dict) else dict(enumerate(value)) if isinstance(value, list) else {}
            name = next((child for child in children if str(child) == part), None)
            if name is None:
                return None
            current, value = (*current, name), children[name]
        return current

    def _value(self, path: Path) -> Any:
        value = self.tree
        for part in path:
            value = value[part]
        return value


def references(text: str) -> Iterator[str | None]:
    """Yield the keys that a string refers to, and None for a key that itself contains references.

    >>> list(references("${a.b}/${..c}/${oc.env:HOME}/${x.${y}}"))
    ['a.b', '..c', 'y', None]
    """
    starts: list[int] = []
    for match in re.finditer(r"\$\{|\}", text):
        if match[0] == "${":
            starts.append(match.end())
        elif starts:
            content = text[starts.pop() : match.start()]
            resolver, colon, argument = content.partition(":")
            if colon and resolver.strip() in KEY_RESOLVERS:
                content, colon = argument.partition(",")[0], ""
            if not colon:
                yield None if "${" in content else content.strip()
