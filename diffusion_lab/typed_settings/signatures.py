"""Check that the classes that the settings name accept their arguments.

This imports custom classes, which runs code. It is only for the user's own settings and never for the content of a
checkpoint: ``parse_section``, which reads the model of a checkpoint, does not use it.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator
from inspect import Parameter
from typing import Any

from pydantic import ValidationError

from diffusion_lab.faults import ConfigError, Fault, closest, faults_of, sibling_key
from diffusion_lab.typed_settings.choice import AnyClass, ChoiceSettings, Options
from diffusion_lab.typed_settings.class_options import options_schema, parameters_of, signature_of
from diffusion_lab.typed_settings.settings_reader import SettingsReader


def drop_leftovers(
    tree: dict[str, Any], sections: Iterable[type[ChoiceSettings]], is_typed: Callable[[str, object], bool]
) -> None:
    """Remove options of named types that a custom class does not take from a tree, in place.

    They remain from the file of a group, or from the default tree, if only the type was changed.

    Args:
        tree: The tree.
        sections: Sections with a type.
        is_typed: Returns whether the user gave a dotted key its value; such keys stay and are reported as faults.
    """
    for choice in (choice for choice in sections if choice.DROPS_LEFTOVERS):
        section: Any = tree
        for part in choice.KEY.split("."):
            section = section.get(part) if isinstance(section, dict) else None
        path = choice.path_of(section.get("type")) if isinstance(section, dict) else None
        with contextlib.suppress(ConfigError):  # reported by the rule below
            named, takes_any = parameters_of(choice.class_of(path)) if path else ([], True)
            foreign = set() if takes_any else section.keys() & set(choice.all_options()) - set(named)
            for option in foreign:
                if not is_typed(f"{choice.KEY}.{option}", section[option]):
                    del section[option]


def check_class(choice: type[ChoiceSettings]) -> Callable[[SettingsReader], Iterator[Fault]]:
    """Return a rule that compares the options of a section with the class that it names."""

    def rule(tree: SettingsReader) -> Iterator[Fault]:
        kind = tree[f"{choice.KEY}.type"]
        if kind is None or (choice.ONLY_TRAINING and tree["mode"] != "train"):
            return
        section = tree.section(choice.KEY) if tree.has_key(choice.KEY) else {}
        given = {name: value for name, value in section.items() if name not in choice.model_fields}
        options = {name: value for name, value in given.items() if not choice.member(section).is_unset(name, value)}
        path = choice.path_of(kind)
        if path is None and issubclass(choice.member_for(kind), Options):
            return  # checked by pydantic, without an import of torch
        try:
            cls = choice.class_of(kind)
            if path:
                yield from _faults_of_call(choice, cls, path, options)
            yield from _faults_of_values(choice, cls, options, in_full=path is None)
        except ConfigError as error:
            yield from error.faults

    return rule


def _faults_of_call(choice: type[ChoiceSettings], cls: AnyClass, path: str, options: dict[str, Any]) -> Iterator[Fault]:
    """Yield the faults of the arguments of a class that is given by its path."""
    signature, type_key = signature_of(cls), f"{choice.KEY}.type"

    def accepts(*first: None, **named: None) -> bool:
        try:
            return bool(signature.bind_partial(*first, **named)) or True
        except TypeError:
            return False

    if inspect.isabstract(cls):
        missing = ", ".join(sorted(cls.__abstractmethods__))
        yield Fault(type_key, f"must be a class that can be instantiated; this one is abstract: {missing}", path)
    first = (None,) if choice.FIRST and accepts(None) else ()
    if choice.FIRST and not first:
        yield Fault(type_key, f"must take {choice.FIRST} as its first argument", path)
    positional, passed = signature.bind_partial(*first).arguments, choice.passed_to(cls)
    unaccepted = [name for name in passed if not accepts(*first, **{name: None})]
    if unaccepted:
        rule = f"must take {', '.join(unaccepted)} (or **others), which are passed to every class of {choice.KEY}"
        yield Fault(type_key, rule, path)
    for name, value in options.items():
        key = f"{choice.KEY}.{name}"
        if name in passed:
            yield Fault(key, f"{path} receives this from {choice.PASSED[name]}; leave it out", value)
        elif name in positional:
            yield Fault(key, f"{path} receives {choice.FIRST} for this; leave it out", value)
        elif not accepts(*first, **{name: None}):
            yield _unaccepted(choice, cls, path, name, value)
    for name, parameter in signature.parameters.items():
        is_given = name in positional or name in passed or name in options
        if parameter.default is not Parameter.empty or is_given:
            continue
        if parameter.kind == Parameter.POSITIONAL_ONLY:
            yield Fault(type_key, f"must take {name} by name, not only by position", path)
        elif parameter.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY):
            yield Fault(f"{choice.KEY}.{name}", f"required by {path}, but missing")


def _unaccepted(choice: type[ChoiceSettings], cls: AnyClass, path: str, name: str, value: object) -> Fault:
    key, rule = f"{choice.KEY}.{name}", f"{path} takes no such argument"
    if choice.FILE and choice.owners_of(name):
        return Fault(key, f"{rule}; leave it out (command line: '~{key}')", value)  # probably from the file of a group
    known = {*choice.model_fields, *parameters_of(cls)[0]} - set(choice.passed_to(cls))
    return Fault(key, rule, value, sibling_key(key, closest(name, known)))


def _faults_of_values(
    choice: type[ChoiceSettings], cls: AnyClass, options: dict[str, Any], in_full: bool
) -> Iterator[Fault]:
    """Yield the faults of a dataclass: its types and bounds, for a named one checked before, and its own rules."""
    schema = None if inspect.isabstract(cls) else options_schema(cls)
    if schema is None:
        return
    known = {name: value for name, value in options.items() if name in schema.model_fields}
    try:
        cls(**schema.model_validate(known).model_dump(exclude_unset=True))
    except ValidationError as error:
        errors = [each for each in error.errors() if each["type"] != "missing"]
        yield from () if in_full else faults_of(errors, known, lambda _: None, choice.KEY)
    except (TypeError, ValueError) as error:
        yield Fault(choice.KEY, str(error), options)
