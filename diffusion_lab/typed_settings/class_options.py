"""Arguments that a class takes: by its signature, and with types and bounds by the fields of a dataclass."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from functools import cache
from inspect import Parameter
from typing import Annotated, Any, Union

from pydantic import Field, PydanticUserError, create_model

from diffusion_lab.typed_settings.section import Section

ANY_ARGUMENTS = inspect.Signature(
    [Parameter("arguments", Parameter.VAR_POSITIONAL), Parameter("options", Parameter.VAR_KEYWORD)]
)


def signature_of(cls: type[Any]) -> inspect.Signature:
    """Return the signature of a class; one that accepts anything if it has none, as some that are written in C."""
    try:
        return inspect.signature(cls)
    except ValueError:
        return ANY_ARGUMENTS


def parameters_of(cls: type[Any]) -> tuple[list[str], bool]:
    """Return the names of the parameters that can be passed by name, and whether the class accepts any others."""
    parameters = signature_of(cls).parameters.values()
    by_name = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    takes_any = any(parameter.kind == Parameter.VAR_KEYWORD for parameter in parameters)
    return [parameter.name for parameter in parameters if parameter.kind in by_name], takes_any


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
    settable = [field.name for field in dataclasses.fields(cls) if field.init]
    if list(inspect.signature(cls).parameters) != settable:
        return None  # it has a custom __init__
    try:
        options: type[Section] = create_model(f"{cls.__name__}Options", __base__=Section, **dataclass_fields(cls))
        options.model_rebuild()  # now, not at the first use, so that unsupported types raise here
    except (NameError, PydanticUserError):  # annotations that cannot be resolved, or are not types of plain values
        return None
    return options


def dataclass_fields(cls: type[Any]) -> dict[str, Any]:
    """Return the fields of a dataclass as pydantic declares them, with YAML's lists for tuples."""
    hints = typing.get_type_hints(cls, include_extras=True)
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        default: Any = ... if field.default is dataclasses.MISSING else field.default
        if field.default_factory is not dataclasses.MISSING:
            default = Field(default_factory=field.default_factory)
        if field.init:
            fields[field.name] = (_from_yaml(hints[field.name]), default)
    return fields


def _from_yaml(hint: Any) -> Any:
    """Return a type whose tuples may be given as lists, since YAML has no tuples."""
    origin = typing.get_origin(hint)
    if origin is tuple:
        return Annotated[hint, Field(strict=False)]
    if origin in (Union, types.UnionType):
        return Union[tuple(map(_from_yaml, typing.get_args(hint)))]  # noqa: UP007 - of types known only at run time
    return hint
