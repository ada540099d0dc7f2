"""Sections that select a class by ``type``: discriminated unions with one member per type.

The other keys of such a section are the options of the class. They are declared once: by the fields of the class if it
is a dataclass, by ``Options`` beside the class or the table of names if importing the class would import torch, and by
the signature of the class if it is given by its dotted path, as custom classes are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, Self, Union

from pydantic import (
    Discriminator,
    GetCoreSchemaHandler,
    SerializerFunctionWrapHandler,
    Tag,
    create_model,
    model_serializer,
    model_validator,
)
from pydantic_core import CoreSchema

from diffusion_lab.faults import UNION_TAG
from diffusion_lab.runtime.import_class import load_class
from diffusion_lab.typed_settings.class_options import dataclass_fields, options_schema, parameters_of, signature_of
from diffusion_lab.typed_settings.section import Section

AnyClass = type[Any]  # an alias, since the section has a field called type

CUSTOM = "."
"""Name of the member for classes given by their dotted path."""


class Options(Section):
    """Options of a named class; an option that is null is not set."""

    CLASS: ClassVar[str]
    """Dotted path of the class, whose module imports torch."""


class ChoiceSettings(Section, extra="allow"):
    """A section whose ``type`` names a class, and whose other keys are options of that class.

    Validation returns a member of the union: a subclass with the options of the named type as fields, or, for a dotted
    path, one that accepts any keys.
    """

    KEY: ClassVar[str]
    """Dotted key of the section."""
    NAMED: ClassVar[Mapping[Any, AnyClass | str]]
    """Table of the names: a dataclass, its ``Options``, or the dotted path of a class."""
    FILE: ClassVar[str] = ""
    """Choice of a file with the options of a type, as typed on the command line."""
    FIRST: ClassVar[str] = ""
    """Description of the argument that the project passes by position, if any."""
    FIRST_NAME: ClassVar[str] = ""
    """Name of that argument in the named classes."""
    PASSED: ClassVar[Mapping[str, str]] = {}
    """Arguments that the project passes by name to classes that take them, each with the key that it comes from."""
    REQUIRED: ClassVar[Collection[str]] = ()
    """Arguments of ``PASSED`` that every class must take."""
    IF_NAMED: ClassVar[Collection[str]] = ()
    """Arguments of ``PASSED`` that a class must name: ``**others`` does not receive them."""
    ONLY_TRAINING: ClassVar[bool] = True
    """Whether the section is only read in training."""
    DROPS_LEFTOVERS: ClassVar[bool] = False
    """Whether options of named types that were not typed are dropped if a custom class does not take them."""

    type: str | None

    @classmethod
    def root(cls) -> ChoiceClass:
        """Return the class of the section: the union of its members, of which this class may be one."""
        return next(base for base in cls.__mro__ if "NAMED" in vars(base))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        if "NAMED" not in vars(cls):
            return handler(source)
        members = tuple(Annotated[member, Tag(f"{UNION_TAG}{name}")] for name, member in _members(cls).items())
        return handler.generate_schema(Annotated[Union[members], Discriminator(cls._tag)])  # noqa: UP007 - known at run time

    @classmethod
    def kind_of(cls, section: object) -> str | None:
        """Return the named type of a section; ``CUSTOM`` if it has a dotted path, or anything else."""
        kind = getattr(section, "type", CUSTOM)
        if isinstance(section, Mapping):
            kind = section.get("type", cls.root().model_fields["type"].default)
        is_name = kind is None or isinstance(kind, str)
        return kind if is_name and kind in _members(cls.root()) else CUSTOM

    @classmethod
    def _tag(cls, section: object) -> str:
        return f"{UNION_TAG}{cls.kind_of(section)}"

    @classmethod
    def member(cls, section: object) -> ChoiceClass:
        """Return the member of the union that validates a section with these keys."""
        return cls.member_for(cls.kind_of(section))

    @classmethod
    def member_for(cls, name: str | None) -> ChoiceClass:
        """Return the member of the union for a named type; that of custom classes for one without declared options."""
        members = _members(cls.root())
        return members.get(name, members[CUSTOM])

    @classmethod
    def options_of(cls, name: str | None) -> dict[str, Any]:
        """Return the fields of the options that a named type declares."""
        fields = cls.member_for(name).model_fields
        return {option: field for option, field in fields.items() if option not in cls.root().model_fields}

    @classmethod
    def owners_of(cls, option: str) -> list[str | None]:
        """Return the named types that declare an option."""
        return _owners(cls.root()).get(option, [])

    @classmethod
    def all_options(cls) -> tuple[str, ...]:
        """Return the options that any named type declares."""
        return tuple(_owners(cls.root()))

    @classmethod
    def path_of(cls, kind: object) -> str | None:
        """Return the dotted path of a class whose options its signature declares; None for any other type."""
        named = cls.NAMED.get(kind, kind) if isinstance(kind, str) else None
        return named if isinstance(named, str) and "." in named else None

    @classmethod
    def class_of(cls, kind: str) -> AnyClass:
        """Return the class of a ``type``. Raises ConfigError if it cannot be imported."""
        named = cls.NAMED.get(kind, kind)
        if isinstance(named, str) or issubclass(named, Options):
            return load_class(named if isinstance(named, str) else named.CLASS, f"{cls.KEY}.type")
        return named

    @classmethod
    def translate_old_keys(cls, section: dict[str, Any]) -> None:
        """Replace keys of earlier versions in a section, in place."""

    @classmethod
    def passed_to(cls, called: AnyClass) -> list[str]:
        """Return the arguments of ``PASSED`` that a class receives."""
        named, takes_any = parameters_of(called)
        wanted = {*named, *cls.REQUIRED, *(set(cls.PASSED) - set(cls.IF_NAMED) if takes_any else ())}
        return [name for name in cls.PASSED if name in wanted]

    @model_validator(mode="before")
    @classmethod
    def _drop_unset_options(cls, values: Any) -> Any:
        """Drop ``Options`` of other types that are at their default; for a custom class, only those that are null."""
        if not isinstance(values, Mapping):
            return values
        return {name: value for name, value in values.items() if not cls.is_unset(name, value)}

    @classmethod
    def is_unset(cls, name: str, value: object) -> bool:
        """Return whether an option of another type has a value that says nothing."""
        owners = [] if name in cls.model_fields else filter(_is_options, map(cls.member_for, cls.owners_of(name)))
        is_default = any(value == owner.model_fields[name].default for owner in owners)
        return is_default and (value is None or _is_options(cls))

    @property
    def options(self) -> dict[str, Any]:
        """The options of the class that are set."""
        own = [name for name in type(self).model_fields if name not in self.root().model_fields]
        return {name: getattr(self, name) for name in own if self._is_set(name)} | (self.model_extra or {})

    def _is_set(self, option: str) -> bool:
        return getattr(self, option) is not None if isinstance(self, Options) else option in self.model_fields_set

    @model_serializer(mode="wrap")
    def _without_unset_options(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        keys = {*self.root().model_fields, *self.options}
        return {key: value for key, value in serialize(self).items() if key in keys}

    def build(self, *first: Any, **passed: Any) -> Any:
        """Create the object.

        Args:
            first: The argument that the class takes by position.
            passed: Arguments by name; of those in ``PASSED`` the class receives what it takes.

        Raises:
            ValueError: The class cannot be imported, or rejects an option.
        """
        cls, options = self.class_of(self.type or ""), self.options
        received, (named, takes_any) = self.passed_to(cls), parameters_of(cls)
        if self.DROPS_LEFTOVERS and not takes_any:
            options = {name: value for name, value in options.items() if name in named or not self.owners_of(name)}
        schema = options_schema(cls) if self.path_of(self.type) else None
        if schema is not None:
            options = schema.model_validate(options).model_dump(exclude_unset=True)
        passed = {name: value for name, value in passed.items() if name in received or name not in self.PASSED}
        try:
            signature_of(cls).bind(*first, **passed, **options)
        except TypeError as error:
            raise ValueError(f"{self.KEY}.type {self.type} does not take these settings: {error}") from error
        return cls(*first, **passed, **options)

    def complete(self) -> Self:
        """Return the same choice with all options of a dataclass, including those at their defaults."""
        schema = options_schema(self.class_of(self.type or "")) if not isinstance(self, Options) else None
        if schema is None:
            return self
        return self.model_validate({**self.model_dump(), **schema.model_validate(self.options).model_dump()})


def _is_options(named: object) -> bool:
    return isinstance(named, type) and issubclass(named, Options)


ChoiceClass = type[ChoiceSettings]


@cache
def _members(root: Any) -> dict[str | None, ChoiceClass]:
    """Return the members of the union by the ``type`` that they are for."""
    closed: dict[str, Any] = {"__doc__": root.__doc__, "__cls_kwargs__": {"extra": "forbid"}}
    members: dict[str | None, ChoiceClass] = {}
    for name, named in root.NAMED.items():
        if _is_options(named):
            members[name] = create_model(f"{root.__name__}_{name}", __base__=(named, root), **closed)
        elif not isinstance(named, str):
            members[name] = create_model(f"{root.__name__}_{name}", __base__=root, **closed, **dataclass_fields(named))
    return {**members, CUSTOM: create_model(root.__name__, __base__=root, __doc__=root.__doc__)}


@cache
def _owners(root: Any) -> dict[str, list[str | None]]:
    """Return the types that declare an option by the name of the option."""
    owners: dict[str, list[str | None]] = {}
    for name in _members(root):
        for option in root.options_of(name):
            owners.setdefault(option, []).append(name)
    return owners
