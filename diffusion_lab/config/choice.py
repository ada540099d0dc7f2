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

from diffusion_lab.config.import_class import load_class
from diffusion_lab.config.section import PluggableSection, Section

AnyClass = type[Any]  # a name of its own, since the section has a field called type


class ChoiceSettings(PluggableSection):
    """A section whose ``type`` names a class, and whose other keys are the fields of that class."""

    KEY: ClassVar[str]
    """Dotted key of the section."""
    BASE: ClassVar[AnyClass]
    """What all the classes have in common."""
    NAMED: ClassVar[Mapping[str, AnyClass]]
    """The classes that have a name; others are given by their dotted path."""

    type: str

    @classmethod
    def class_of(cls, name: str) -> AnyClass:
        """The class behind a ``type``, imported where it is a dotted path."""
        return cls.NAMED[name] if name in cls.NAMED else load_class(name, f"{cls.KEY}.type")

    @classmethod
    def options_of(cls, name: str) -> tuple[str, ...]:
        """The keys that a named type reads."""
        return tuple(field.name for field in dataclasses.fields(cls.NAMED[name]))

    @classmethod
    def all_options(cls) -> frozenset[str]:
        """The keys that any named type reads."""
        return frozenset(option for name in cls.NAMED for option in cls.options_of(name))

    def build(self) -> Any:
        """The object itself. Raises ValueError where its class cannot be imported or refuses an option."""
        cls, options = self.class_of(self.type), self.extra_options
        schema = options_schema(cls)
        return cls(**(schema.model_validate(options).model_dump(exclude_unset=True) if schema else options))

    def complete(self) -> Self:
        """The same choice with every option written out, those left to their defaults too."""
        schema = options_schema(self.class_of(self.type))
        options = self.extra_options if schema is None else schema.model_validate(self.extra_options).model_dump()
        return self.model_validate({"type": self.type, **options})


def options_schema(cls: type[Any]) -> type[Section] | None:
    """The fields of a dataclass as a strict section, with the bounds that its annotations carry.

    None where ``cls`` is no dataclass, or one whose annotations mean nothing here: its options are then passed on
    as they are.
    """
    return _options_schema(cls)  # type: ignore[arg-type]  # mypy takes no class for hashable


@cache  # pydantic takes milliseconds to build one, and every check of a tree asks for several
def _options_schema(cls: type[Any]) -> type[Section] | None:
    if not dataclasses.is_dataclass(cls):
        return None
    settable = [field for field in dataclasses.fields(cls) if field.init]
    if list(inspect.signature(cls).parameters) != [field.name for field in settable]:
        return None  # it has an __init__ of its own
    try:
        return _section_of(cls, settable)
    except (NameError, PydanticUserError):  # annotations that cannot be resolved, or are no types of plain values
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
    options.model_rebuild()  # now, not at the first use, so that a strange type is met where it is expected
    return options


def _from_yaml(hint: Any) -> Any:
    """A type whose tuples may be given as lists, for YAML has nothing else."""
    origin = typing.get_origin(hint)
    if origin is tuple:
        return Annotated[hint, Field(strict=False)]
    if origin in (Union, types.UnionType):
        return Union[tuple(map(_from_yaml, typing.get_args(hint)))]  # noqa: UP007 - of types known only now
    return hint
