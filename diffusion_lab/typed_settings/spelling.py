"""Accepted spellings of choices: names in any case, and ``none`` for null where no user-defined string is allowed.

Keys that accept any string or path are left unchanged: ``experiment: None`` is a name, ``data.paths.val: none`` a
folder. Dotted paths of custom classes keep their case too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel

from diffusion_lab.typed_settings.choice import CUSTOM, ChoiceSettings
from diffusion_lab.typed_settings.section import DeviceName, NameOrPath
from diffusion_lab.typed_settings.settings_reader import section_of


@dataclass(frozen=True)
class Spelling:
    """Accepted spellings of a value.

    Args:
        names: Accepted names by their lower-case spelling.
        is_lower: Whether any string is converted to lower case, as names of devices with numbers are.
        may_be_null: Whether ``none`` is null.
        entries: Accepted spellings of each entry of a list.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    is_lower: bool = False
    may_be_null: bool = False
    entries: Spelling | None = None

    def normalize(self, value: Any) -> Any:
        """Return the value as the schema spells it; any other value unchanged."""
        if isinstance(value, list) and self.entries is not None:
            return [self.entries.normalize(entry) for entry in value]
        if not isinstance(value, str):
            return value
        folded = value.lower()
        if folded in self.names:
            return self.names[folded]
        if folded == "none" and self.may_be_null:
            return None
        return folded if self.is_lower else value


def normalize_spelling(tree: dict[str, Any], schema: type[BaseModel]) -> None:
    """Replace names in another case, ``none``, and keys of earlier versions in a tree, in place."""
    if issubclass(schema, ChoiceSettings):
        if "type" in tree:
            tree["type"] = spelling_of(schema, "type").normalize(tree["type"])
        schema.translate_old_keys(tree)
        schema = schema.member(tree)
    for name, value in tree.items():
        section = section_of(schema, name)
        if section is not None and isinstance(value, dict):
            normalize_spelling(value, section)
        elif name in schema.model_fields:
            tree[name] = spelling_of(schema, name).normalize(value)


def spelled(schema: type[BaseModel], key: str, value: Any) -> Any:
    """Return the value of a dotted key as the schema spells it; that of an unknown key unchanged."""
    *sections, name = key.split(".")
    for part in sections:
        inner = section_of(schema, part)
        if inner is None:
            return value
        schema = inner
    if issubclass(schema, ChoiceSettings):
        schema = schema.member_for((schema.owners_of(name) or [CUSTOM])[0])
    return spelling_of(schema, name).normalize(value) if name in schema.model_fields else value


@cache
def spelling_of(schema: type[BaseModel], name: str) -> Spelling:
    """Return the accepted spellings of a field's value."""
    declared = schema.model_fields[name]
    annotation: Any = declared.annotation
    for part in declared.metadata:
        annotation = Annotated[annotation, part]
    return _spelling(annotation)


def _spelling(annotation: Any) -> Spelling:
    names: dict[str, str] = {}
    accepts_any_string = may_be_null = is_lower = False
    entries: Spelling | None = None
    for kind, metadata in _alternatives(annotation):
        chosen = [part for part in metadata if isinstance(part, NameOrPath)]
        if get_origin(kind) is Literal:
            names |= {name.lower(): name for name in get_args(kind) if isinstance(name, str)}
        elif chosen:
            names |= {name.lower(): name for name in chosen[0].names}
            names |= {other.lower(): name for other, name in chosen[0].also.items()}
        elif any(isinstance(part, DeviceName) for part in metadata):
            is_lower = True
            names |= {name: name for name in DeviceName.KINDS}
        elif get_origin(kind) is tuple:
            entries = _spelling(get_args(kind)[0])
        accepts_any_string = accepts_any_string or kind is Path or (kind is str and not chosen and not is_lower)
        may_be_null = may_be_null or kind is NoneType
    if accepts_any_string:  # a name in another case may be a string or file of the user
        return Spelling()
    return Spelling(names, is_lower, may_be_null, entries)


def _alternatives(annotation: Any, metadata: tuple[Any, ...] = ()) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Yield the types that a value may have, each with its metadata."""
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        yield from _alternatives(inner, (*metadata, *more))
    elif get_origin(annotation) in (None, Literal, tuple):
        yield annotation, metadata
    else:
        for alternative in get_args(annotation):
            yield from _alternatives(alternative, metadata)
