"""Faults of a configuration, as messages for the user who wrote it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from enum import Enum
from typing import Any, cast

from pydantic_core import ErrorDetails

from diffusion_lab.console.redaction import redacted


class Absent(Enum):
    """Marker for the value of a key that is absent."""

    NO_VALUE = "no value"


NO_VALUE = Absent.NO_VALUE

TRACEBACK_NOTE = "the traceback is in"
"""Beginning of the note that a run adds to the exception that ended it; the path of the log follows."""

UNION_TAG = "type="
"""Beginning of the part of pydantic's locations that names the member of a union, not a key."""

RULES = {
    "missing": "required, but missing",
    "extra_forbidden": "unknown key",
    "model_type": "must be a section of keys",
    "model_attributes_type": "must be a section of keys",
    "int_type": "must be an integer",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be a string",
    "tuple_type": "must be a list",
    "finite_number": "must be a finite number",
    "greater_than": "must be greater than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "too_short": "must have at least {min_length} entries",
    "too_long": "must have at most {max_length} entries",
    "string_too_short": "must not be empty",
    "literal_error": "must be {expected}",
}
"""Messages for pydantic's error types."""


@dataclass(frozen=True)
class Fault:
    """One mistake: the dotted key, the rule it breaks, its value, a suggestion, and the location of the key."""

    key: str
    rule: str
    value: object = NO_VALUE
    suggestion: str | None = None
    """The key or value that was probably intended, or two of them: ``one or other``."""
    location: str | None = None
    """File and line, or ``command line``."""

    def __str__(self) -> str:
        value = "" if self.value is NO_VALUE else f" = {shown(redacted({self.key: self.value})[self.key])}"
        suggested = " or ".join(map(repr, self.suggestion.split(" or "))) if self.suggestion else ""
        hint = f" (did you mean {suggested}?)" if suggested else ""
        location = f" [{self.location}]" if self.location else ""
        return f"{self.key}{value}: {self.rule}{hint}{location}"


class ConfigError(ValueError):
    """A configuration with faults; the message has one line per fault."""

    def __init__(self, faults: Sequence[Fault], kind: str = "setting") -> None:
        self.faults = tuple(faults)
        self.kind = kind
        count = f"1 {kind} is" if len(faults) == 1 else f"{len(faults)} {kind}s are"
        super().__init__("\n  ".join([f"{count} wrong:", *map(str, faults)]))

    def of_arguments(self, rename: Callable[[str], str]) -> ConfigError:
        """Return the same faults as those of function arguments.

        Args:
            rename: Returns a text with the keys of settings replaced by names of arguments.
        """

        def renamed(fault: Fault) -> Fault:
            suggestion = None if fault.suggestion is None else rename(fault.suggestion)
            return replace(fault, key=rename(fault.key), rule=rename(fault.rule), suggestion=suggestion)

        return ConfigError([*map(renamed, self.faults)], "argument")

    def with_suggestions(self, names: Sequence[str]) -> ConfigError:
        """Return the same faults; an unknown top-level key that resembles one of ``names`` suggests it."""
        return ConfigError(
            [
                replace(fault, suggestion=closest(fault.key, names) or fault.suggestion)
                if fault.rule == RULES["extra_forbidden"] and "." not in fault.key
                else fault
                for fault in self.faults
            ]
        )

    def with_group_suggestions(self, groups: Sequence[str]) -> ConfigError:
        """Return the same faults; an unknown top-level key with a string value suggests the group it resembles."""

        def closest_group(fault: Fault) -> str | None:
            chooses = fault.rule == RULES["extra_forbidden"] and "." not in fault.key and isinstance(fault.value, str)
            return closest(fault.key, groups, cutoff=0.75) if chooses else None

        return ConfigError([replace(each, suggestion=closest_group(each) or each.suggestion) for each in self.faults])

    def with_locations(self, find_location: Callable[[str], str | None]) -> ConfigError:
        """Return the same faults, each with the location at which its key was set."""
        return ConfigError(
            [
                fault
                if fault.value is NO_VALUE or fault.location
                else replace(fault, location=find_location(fault.key))
                for fault in self.faults
            ]
        )

    def __reduce__(self) -> tuple[type[ConfigError], tuple[tuple[Fault, ...], str]]:
        return ConfigError, (self.faults, self.kind)  # the jobs of a sweep may run in other processes


class CommandError(ValueError):
    """A command line that cannot be run, or that was started in a way that does not work."""


class ConfigWarning(UserWarning):
    """A setting that is allowed and probably not intended."""


class ConfigDeprecationWarning(ConfigWarning, FutureWarning):
    """Use of a format that will be removed; a FutureWarning, since Python hides a DeprecationWarning from users."""


def traceback_note(error: BaseException) -> str | None:
    """Return the note that names the file with the traceback of an error, or None."""
    notes: list[str] = getattr(error, "__notes__", [])
    return next((note for note in notes if note.startswith(TRACEBACK_NOTE)), None)


def shown(value: object, longest: int = 80) -> str:
    """Return a value as it would appear in YAML, shortened to ``longest`` characters."""
    try:
        text = json.dumps(value, default=str, ensure_ascii=False)
    except (ValueError, RecursionError):  # thousands of digits, a list in itself, thousands of levels
        text = f"({type(value).__name__} that is too long to show)"
    return text if len(text) <= longest else text[: longest - 1] + "…"


def closest(name: str, candidates: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the candidate that ``name`` probably misspells, or None.

    Args:
        name: The name.
        candidates: The names to choose from.
        cutoff: Similarity required, from 0 (any name) to 1 (the same name).
    """
    names = list(candidates)
    differing_in_case = [candidate for candidate in names if candidate.lower() == name.lower()]
    return next(iter(differing_in_case or get_close_matches(name, names, n=1, cutoff=cutoff)), None)


def faults_of(
    errors: Iterable[ErrorDetails], tree: object, suggest: Callable[[str], str | None], prefix: str = ""
) -> list[Fault]:
    """Return pydantic's errors about ``tree`` as faults, one per key.

    Args:
        errors: From ``ValidationError.errors()``.
        tree: The input the errors are about.
        suggest: Returns the dotted key that an unknown one probably stands for, or None.
        prefix: Dotted key of ``tree`` itself, where it is part of a larger tree.
    """
    grouped: dict[str, list[Fault]] = {}
    for error in errors:
        fault = _fault_of(error, _dotted(error, tree, prefix))
        if error["type"] == "extra_forbidden":
            fault = unknown_key(fault.key, fault.value, suggest)
        grouped.setdefault(fault.key, []).append(fault)
    list_keys = {re.sub(r"\[\d+\]$", "", key) for key in grouped if key.endswith("]")}
    return [_merge(faults) for key, faults in grouped.items() if key not in list_keys]  # that of an entry says more


def unknown_key(key: str, value: object, suggest: Callable[[str], str | None]) -> Fault:
    """Return the fault of a key that does not exist.

    ``optimizer.lr=1`` creates the section ``optimizer``; the fault names the key that was typed.

    Args:
        key: Dotted key.
        value: Its value.
        suggest: Returns the dotted key that an unknown one probably stands for, or None.
    """
    inner_key, inner = key, value
    several = False
    while isinstance(inner, Mapping) and inner:
        several = several or len(inner) > 1
        name, inner = next(iter(inner.items()))
        inner_key = f"{inner_key}.{name}"
    if several:
        return Fault(key, RULES["extra_forbidden"], value, _suggest_section(key, value, suggest))
    return Fault(inner_key, RULES["extra_forbidden"], inner, suggest(inner_key))


def _suggest_section(key: str, value: object, suggest: Callable[[str], str | None]) -> str | None:
    """Return the existing section that has the keys of an unknown one, else the suggestion for its name alone."""
    for name in value if isinstance(value, Mapping) else ():
        suggested = suggest(f"{key}.{name}") or ""
        if suggested.endswith(f".{name}") and " or " not in suggested:
            return suggested.removesuffix(f".{name}")
    return suggest(key)


def sibling_key(key: str, name: str | None) -> str | None:
    """Return the dotted key of ``name`` in the section of ``key``; None if ``name`` is None.

    >>> sibling_key("training.ema.deacy", "decay")
    'training.ema.decay'
    """
    parent, dot, _ = key.rpartition(".")
    return None if name is None else f"{parent}{dot}{name}"


def _fault_of(error: ErrorDetails, key: str) -> Fault:
    kind, value = error["type"], error["input"]
    context: dict[str, Any] = error.get("ctx", {})
    if kind == "value_error":
        return Fault(key, str(context["error"]), value)
    rule = RULES[kind].format(**context) if kind in RULES else error["msg"]
    if kind == "float_type" and _reads_as_number(value):
        rule += ", not a string (in YAML without quotes, with a decimal point: 1.0e-4)"
    names = context.get("names") or re.findall(r"'([^']*)'", context.get("expected", ""))
    suggestion = context.get("suggestion") or (closest(value, names) if isinstance(value, str) else None)
    return Fault(key, rule, NO_VALUE if kind == "missing" else value, suggestion)


def _merge(faults: list[Fault]) -> Fault:
    """Merge the faults of a key that may have one of several types and has none of them."""
    first, *others = faults
    rules = [first.rule, *(fault.rule.removeprefix("must be ") for fault in others)]
    return Fault(first.key, " or ".join(dict.fromkeys(rules)), first.value, first.suggestion)


def _dotted(error: ErrorDetails, tree: object, prefix: str) -> str:
    """Return the dotted key of an error's location, without the type names that pydantic adds for a union."""
    key = prefix
    for part in error["loc"]:
        if isinstance(part, str) and part.startswith(UNION_TAG):
            continue
        if isinstance(tree, Mapping) and (part in tree or error["type"] == "missing"):
            key = f"{key}.{part}" if key else str(part)
            tree = cast("Mapping[Any, object]", tree).get(part)
        elif isinstance(tree, list | tuple) and isinstance(part, int):
            key = f"{key}[{part}]"
            tree = tree[part] if part < len(tree) else None
        elif not isinstance(tree, list | tuple):
            break
    return key


def _reads_as_number(value: object) -> bool:
    try:
        float(value) if isinstance(value, str) else float("")
    except ValueError:
        return False
    return True
