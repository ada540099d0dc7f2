"""Read access to a settings tree that may have faults: only valid keys can be read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from diffusion_lab.faults import Fault
from diffusion_lab.typed_settings.choice import ChoiceSettings
from diffusion_lab.typed_settings.section import Section, home_expanded

MAX_BITS = 256


class Unreadable(Exception):
    """A key is missing or has a fault of its own, so that rules that read it cannot be checked."""


class SettingsReader:
    """Values of a tree by dotted key: as given, or the default of the schema.

    Reading a key that is missing without a default, or that is one of ``faulty``, raises Unreadable.
    """

    def __init__(self, tree: Mapping[str, Any], root: type[Section], faulty: Iterable[str] = ()) -> None:
        self._tree = tree
        self.root = root
        self._faulty = {re.sub(r"\[.*", "", key) for key in faulty}

    def __getitem__(self, key: str) -> Any:
        parts = key.split(".")
        if any(".".join(parts[: depth + 1]) in self._faulty for depth in range(len(parts))):
            raise Unreadable(key)
        value: Any = self._tree
        schema: type[BaseModel] | None = self.root
        for part in parts:
            is_given = isinstance(value, Mapping) and part in value
            value = value[part] if is_given else _default(schema, value, part)
            schema = member_of(section_of(schema, part), value) if schema else None
        return value

    def is_faulty(self, key: str) -> bool:
        """Return whether the key itself has a fault that has already been reported."""
        return key in self._faulty

    def has_key(self, key: str) -> bool:
        """Return whether the tree itself has the key, valid or not."""
        value: Any = self._tree
        for part in key.split("."):
            if not (isinstance(value, Mapping) and part in value):
                return False
            value = value[part]
        return True

    def section(self, key: str) -> Mapping[str, Any]:
        """Return the keys given in a section. Raises Unreadable if it is not a section."""
        value = self[key]
        if not isinstance(value, Mapping):
            raise Unreadable(key)
        return value

    def schema_of(self, key: str) -> type[BaseModel]:
        """Return the class of a section."""
        schema: type[BaseModel] | None = self.root
        for part in key.split("."):
            schema = section_of(schema, part) if schema else None
        if schema is None:
            raise Unreadable(key)
        return schema


def _default(schema: type[BaseModel] | None, value: Any, part: str) -> Any:
    if isinstance(value, BaseModel) and hasattr(value, part):  # inside a section at its default
        return getattr(value, part)
    field = schema.model_fields.get(part) if schema and isinstance(value, Mapping) else None
    default = field.get_default(call_default_factory=True) if field else PydanticUndefined
    if default is PydanticUndefined:
        if field is None and schema and issubclass(schema, ChoiceSettings) and schema.owners_of(part):
            return None  # an option of another type is not set
        raise Unreadable(part)
    return default


@cache
def section_of(schema: type[BaseModel], part: str) -> type[BaseModel] | None:
    """Return the class of the section that a field holds, or None for a plain value."""
    field = schema.model_fields.get(part)
    if field is None:
        return None
    members = (field.annotation, *get_args(field.annotation))
    return next((kind for kind in members if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def member_of(schema: type[BaseModel] | None, section: object) -> type[BaseModel] | None:
    """Return the class that validates a section: of one with a ``type``, the member for that."""
    return schema.member(section) if schema and issubclass(schema, ChoiceSettings) else schema


def known_keys(schema: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of a schema, sections included."""
    for name in schema.model_fields:
        yield prefix + name
        section = section_of(schema, name)
        if section is not None:
            yield from known_keys(section, f"{prefix}{name}.")
    if issubclass(schema, ChoiceSettings):
        yield from (prefix + option for option in schema.all_options())


@cache
def path_keys(schema: type[BaseModel], prefix: str = "") -> tuple[str, ...]:
    """Return the dotted keys of a schema whose values are paths."""
    keys: list[str] = []
    for name, field in schema.model_fields.items():
        section = section_of(schema, name)
        if section is not None:
            keys.extend(path_keys(section, f"{prefix}{name}."))
        elif _may_be_path(field.annotation):
            keys.append(prefix + name)
    return tuple(keys)


def _may_be_path(annotation: Any) -> bool:
    return annotation is Path or any(map(_may_be_path, get_args(annotation)))


def expand_home(tree: dict[str, Any], schema: type[BaseModel]) -> None:
    """Replace a leading ``~`` of the paths in a tree by the home folder, in place."""
    for key in path_keys(schema):
        *sections, name = key.split(".")
        section: Any = tree
        for part in sections:
            section = section.get(part) if isinstance(section, dict) else None
        if isinstance(section, dict) and isinstance(section.get(name), str):
            section[name] = home_expanded(section[name])


def leaves(tree: Mapping[str, Any], parent: str = "") -> dict[str, Any]:
    """Return the values of a tree by dotted key; lists and empty sections are values.

    >>> leaves({"model": {"diffusion": {"beta_end": 0.02}}})
    {'model.diffusion.beta_end': 0.02}
    """
    values: dict[str, Any] = {}
    for name, value in tree.items():
        key = f"{parent}{name}"
        values |= leaves(value, f"{key}.") if isinstance(value, Mapping) and value else {key: value}
    return values


def plain_tree(value: Any) -> Any:
    """Return containers of any kind as new dicts and lists, and other values unchanged."""
    if isinstance(value, Mapping):
        return {key: plain_tree(entry) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [plain_tree(entry) for entry in value]
    return value


def limit_integers(value: Any, faults: list[Fault], key: str = "") -> Any:
    """Return the same containers with 1 in place of each integer that is too long to print, which becomes a fault."""
    if isinstance(value, dict):
        return {name: limit_integers(entry, faults, f"{key}.{name}".lstrip(".")) for name, entry in value.items()}
    if isinstance(value, list):
        return [limit_integers(entry, faults, f"{key}[{index}]") for index, entry in enumerate(value)]
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        faults.append(Fault(key, f"must be an integer of at most {MAX_BITS} bits, got one of {value.bit_length()}"))
        return 1
    return value
