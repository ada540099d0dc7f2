"""A choice by name among classes whose fields are its options: a sampler, a part of the loss."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, Self, Union

from pydantic import Field, PydanticUserError, create_model

from diffusion_lab.config.section import PluggableSection, Section
from diffusion_lab.runtime.import_class import load_class

AnyClass = type[Any]  # an alias, since the section has a field called type


class ChoiceSettings(PluggableSection):
    """A section whose ``type`` names a class, and whose other keys are the fields of that class."""

    KEY: ClassVar[str]
    """Dotted key of the section."""
    BASE: ClassVar[AnyClass]
    """Base class of all choices."""
    NAMED: ClassVar[Mapping[str, AnyClass]]
    """Classes selected by name; others are given by their dotted path."""

    type: str

    @classmethod
    def class_of(cls, name: str) -> AnyClass:
        """Return the class of a ``type``, imported if it is a dotted path."""
        return cls.NAMED[name] if name in cls.NAMED else load_class(name, f"{cls.KEY}.type")

    @classmethod
    def options_of(cls, name: str) -> tuple[str, ...]:
        """Return the keys that a named type reads."""
        return tuple(field.name for field in dataclasses.fields(cls.NAMED[name]))

    @classmethod
    def all_options(cls) -> frozenset[str]:
        """Return the keys that any named type reads."""
        return frozenset(option for name in cls.NAMED for option in cls.options_of(name))

    def build(self) -> Any:
        """Create the object. Raises ValueError if its class cannot be imported or rejects an option."""
        cls, options = self.class_of(self.type), self.extra_options
        schema = options_schema(cls)
        return cls(**(schema.model_validate(options).model_dump(exclude_unset=True) if schema else options))

    def complete(self) -> Self:
        """Return the same choice with all options, including those at their defaults."""
        schema = options_schema(self.class_of(self.type))
        options = self.extra_options if schema is None else schema.model_validate(self.extra_options).model_dump()
        return self.model_validate({"type": self.type, **options})


def options_schema(cls: type[Any]) -> type[Section] | None:
    """Return the fields of a dataclass as a strict section, with the bounds of its annotations.

    None if ``cls`` is not a dataclass, or one whose annotations are not supported: its options are then passed on
    unchecked.
    """
    return _options_schema(cls)  # type: ignore[arg-type]  # mypy does not consider a class hashable


@cache  # pydantic takes milliseconds to build one, and every validation needs several
def _options_schema(cls: type[Any]) -> type[Section] | None:
    if not dataclasses.is_dataclass(cls):
        return None
    settable = [field for field in dataclasses.fields(cls) if field.init]
    if list(inspect.signature(cls).parameters) != [field.name for field in settable]:
        return None  # it has a custom __init__
    try:
        return _section_of(cls, settable)
    except (NameError, PydanticUserError):  # annotations that cannot be resolved, or are not types of plain values
        return None


def _section_of(cls: type[Any], settable: Iterable[dataclasses.Field[Any]]) -> type[Section]:
    hints = typing.get_type_hints(cls, include_extras=True)
    fields: dict[str, Any] = {}
    for field in settable:
        default: Any = ... if field.default is dataclasses.MISSING else field.default
        if field.default_factory is not dataclasses.MISSING:
            default = Field(default_factory=field.default_factory)
        fields[field.name] = (_from_yaml(hints[field.name]), default)
    options: type[Section] = create_model(f"{cls.__name__}Options", __base__=Section, **fields)
    options.model_rebuild()  # now, not at the first use, so that unsupported types raise here
    return options


def _from_yaml(hint: Any) -> Any:
    """Return a type whose tuples may be given as lists, since YAML has no tuples."""
    origin = typing.get_origin(hint)
    if origin is tuple:
        return Annotated[hint, Field(strict=False)]
    if origin in (Union, types.UnionType):
        return Union[tuple(map(_from_yaml, typing.get_args(hint)))]  # noqa: UP007 - of types known only at run time
    return hint
