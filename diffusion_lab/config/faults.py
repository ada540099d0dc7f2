"""What is wrong with a configuration, in words for the one who wrote it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from enum import Enum
from typing import Any, cast

from pydantic_core import ErrorDetails

from diffusion_lab.redaction import redacted


class Absent(Enum):
    """Stands for the value of a key that is not there."""

    NO_VALUE = "no value"


NO_VALUE = Absent.NO_VALUE

TRACEBACK_NOTE = "the traceback is in"
"""How the note begins that a run leaves on the exception that ended it; the path of its log follows."""

RULES = {
    "missing": "required, but missing",
    "extra_forbidden": "unknown key",
    "model_type": "must be a section of keys",
    "model_attributes_type": "must be a section of keys",
    "int_type": "must be an integer",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
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
"""Wording of pydantic's kinds of error."""


@dataclass(frozen=True)
class Fault:
    """One thing wrong: the dotted key, the rule it breaks, its value, what may have been meant, and where it stands."""

    key: str
    rule: str
    value: object = NO_VALUE
    suggestion: str | None = None
    """A key or a value, or two: ``one or other``."""
    origin: str | None = None
    """File and line, or ``command line``."""

    def __str__(self) -> str:
        given = "" if self.value is NO_VALUE else f" = {shown(redacted({self.key: self.value})[self.key])}"
        meant = " or ".join(map(repr, self.suggestion.split(" or "))) if self.suggestion else ""
        hint = f" (did you mean {meant}?)" if meant else ""
        where = f" [{self.origin}]" if self.origin else ""
        return f"{self.key}{given}: {self.rule}{hint}{where}"


class ConfigError(ValueError):
    """A configuration with faults; its text has one line for each of them."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        count = "1 setting is" if len(faults) == 1 else f"{len(faults)} settings are"
        super().__init__("\n  ".join([f"{count} wrong:", *map(str, faults)]))

    def suggesting(self, names: Sequence[str]) -> ConfigError:
        """The same faults; an unknown key at the root that is like one of ``names`` suggests that."""
        return ConfigError(
            [
                replace(fault, suggestion=closest(fault.key, names) or fault.suggestion)
                if fault.rule == RULES["extra_forbidden"] and "." not in fault.key
                else fault
                for fault in self.faults
            ]
        )

    def suggesting_groups(self, groups: Sequence[str]) -> ConfigError:
        """The same faults; an unknown key at the root with a text as its value suggests the group that it is like."""

        def group_meant(fault: Fault) -> str | None:
            chooses = fault.rule == RULES["extra_forbidden"] and "." not in fault.key and isinstance(fault.value, str)
            return closest(fault.key, groups, cutoff=0.75) if chooses else None

        return ConfigError([replace(fault, suggestion=group_meant(fault) or fault.suggestion) for fault in self.faults])

    def located(self, place: Callable[[str], str | None]) -> ConfigError:
        """The same faults, each with the place where its key was given."""
        return ConfigError(
            [
                fault if fault.value is NO_VALUE or fault.origin else replace(fault, origin=place(fault.key))
                for fault in self.faults
            ]
        )

    def __reduce__(self) -> tuple[type[ConfigError], tuple[tuple[Fault, ...]]]:
        return ConfigError, (self.faults,)  # the jobs of a sweep may run in other processes


class CommandError(ValueError):
    """What is wrong with a command line or with the way in which it was started."""


class ConfigWarning(UserWarning):
    """A setting that is allowed and unlikely to be meant."""


class ConfigDeprecationWarning(ConfigWarning, FutureWarning):
    """A format that will be removed; a FutureWarning, since Python hides a DeprecationWarning from users."""


def traceback_note(error: BaseException) -> str | None:
    """Return the note that says in which file the traceback of an error is; None where it is in none."""
    notes: list[str] = getattr(error, "__notes__", [])
    return next((note for note in notes if note.startswith(TRACEBACK_NOTE)), None)


def shown(value: object, longest: int = 80) -> str:
    """A value as it would stand in YAML, shortened to ``longest`` characters."""
    try:
        text = json.dumps(value, default=str, ensure_ascii=False)
    except (ValueError, RecursionError):  # thousands of digits, a list in itself, thousands of levels
        text = f"({type(value).__name__} that is too long to show)"
    return text if len(text) <= longest else text[: longest - 1] + "…"


def closest(name: str, candidates: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The candidate that ``name`` may be a misspelling of, if one is near: from 0, anything, to 1, the same."""
    names = list(candidates)
    in_another_case = [candidate for candidate in names if candidate.lower() == name.lower()]
    return next(iter(in_another_case or get_close_matches(name, names, n=1, cutoff=cutoff)), None)


def faults_of(
    errors: Iterable[ErrorDetails], tree: object, suggest: Callable[[str], str | None], prefix: str = ""
) -> list[Fault]:
    """Pydantic's errors about ``tree`` as faults, one for each key.

    Args:
        errors: From ``ValidationError.errors()``.
        tree: The input that they are about.
        suggest: What an unknown dotted key may mean.
        prefix: Dotted key of ``tree`` itself, where it is a part of a larger one.
    """
    grouped: dict[str, list[Fault]] = {}
    for error in errors:
        fault = _fault_of(error, _dotted(error, tree, prefix))
        if error["type"] == "extra_forbidden":
            fault = unknown_key(fault.key, fault.value, suggest)
        grouped.setdefault(fault.key, []).append(fault)
    within = {re.sub(r"\[\d+\]$", "", key) for key in grouped if key.endswith("]")}
    return [_joined(faults) for key, faults in grouped.items() if key not in within]  # an entry tells more


def unknown_key(key: str, value: object, suggest: Callable[[str], str | None]) -> Fault:
    """Return the fault of a key that does not exist.

    ``optimizer.lr=1`` creates the section ``optimizer``; the fault names the key that was typed.

    Args:
        key: Dotted key.
        value: Its value.
        suggest: Which dotted key an unknown one may stand for.
    """
    inner_key, inner = key, value
    several = False
    while isinstance(inner, Mapping) and inner:
        several = several or len(inner) > 1
        name, inner = next(iter(inner.items()))
        inner_key = f"{inner_key}.{name}"
    if several:
        return Fault(key, RULES["extra_forbidden"], value, _section_meant(key, value, suggest))
    return Fault(inner_key, RULES["extra_forbidden"], inner, suggest(inner_key))


def _section_meant(key: str, value: object, suggest: Callable[[str], str | None]) -> str | None:
    """Return the section that has the keys of an unknown one, else what its name alone may mean."""
    for name in value if isinstance(value, Mapping) else ():
        meant = suggest(f"{key}.{name}") or ""
        if meant.endswith(f".{name}") and " or " not in meant:
            return meant.removesuffix(f".{name}")
    return suggest(key)


def sibling(key: str, name: str | None) -> str | None:
    """Return the dotted key of ``name`` in the section of ``key``; None where there is no name.

    >>> sibling("training.ema.deacy", "decay")
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
        rule += ", not text (in YAML without quotes, with a point: 1.0e-4)"
    names = context.get("names") or re.findall(r"'([^']*)'", context.get("expected", ""))
    suggestion = context.get("meant") or (closest(value, names) if isinstance(value, str) else None)
    return Fault(key, rule, NO_VALUE if kind == "missing" else value, suggestion)


def _joined(faults: list[Fault]) -> Fault:
    """One fault for a key that could be of several types and is of none."""
    first, *others = faults
    rules = [first.rule, *(fault.rule.removeprefix("must be ") for fault in others)]
    return Fault(first.key, " or ".join(dict.fromkeys(rules)), first.value, first.suggestion)


def _dotted(error: ErrorDetails, tree: object, prefix: str) -> str:
    """The dotted key of an error's location, without the type names that it has for a union."""
    key = prefix
    for part in error["loc"]:
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
