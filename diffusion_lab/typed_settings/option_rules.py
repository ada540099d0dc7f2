"""Faults of options that do not belong to the type of their section."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from diffusion_lab.faults import RULES, Fault, closest, sibling_key
from diffusion_lab.typed_settings.choice import ChoiceSettings


class OptionFault(Fault):
    """Fault of a key that the type of its section does not have, or requires."""


def name_owners(
    faults: Iterable[Fault], tree: Mapping[str, Any], sections: Iterable[type[ChoiceSettings]]
) -> Iterator[Fault]:
    """Yield faults; those of an option of a section with a type say which types have it, or name a similar option."""
    choices = {choice.KEY: choice for choice in sections}
    for fault in faults:
        parent, _, option = fault.key.rpartition(".")
        section: Any = tree
        for part in parent.split("."):
            section = section.get(part) if isinstance(section, Mapping) else None
        is_option = parent in choices and isinstance(section, Mapping)
        yield _with_owners(fault, choices[parent], section, option) if is_option else fault
        if is_option and option == "type":
            yield from _misspelled(choices[parent], section)


def _misspelled(choice: type[ChoiceSettings], section: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield misspelled keys next to an unknown type, to which other keys may belong; next to a missing one, all others.

    The missing type may itself be among them: ``ype: adam``.
    """
    known = [*choice.model_fields, *choice.all_options()]
    names_a_class = "type" in section
    for name in (name for name in section if isinstance(name, str) and name not in known):
        suggestion = sibling_key(f"{choice.KEY}.{name}", closest(name, known, cutoff=0.9 if names_a_class else 0.6))
        if suggestion or not names_a_class:
            yield OptionFault(f"{choice.KEY}.{name}", RULES["extra_forbidden"], section[name], suggestion)


def _with_owners(fault: Fault, choice: type[ChoiceSettings], section: Mapping[str, Any], option: str) -> Fault:
    kind, owners = choice.kind_of(section), choice.owners_of(option)
    if fault.rule == RULES["missing"] and len(owners) > 1:
        return OptionFault(fault.key, f"required with type {kind}, but missing")
    if fault.rule != RULES["extra_forbidden"]:
        return fault
    if option in (*choice.PASSED, choice.FIRST_NAME):
        source = f"from {choice.PASSED[option]}" if option in choice.PASSED else f"to {choice.FIRST}"
        return OptionFault(
            fault.key, f"is an argument that the project sets itself, {source}; leave it out", fault.value
        )
    if owners:
        named = " or ".join(owner for owner in owners if owner)
        hint = f" (command line: {choice.FILE.format(kind)})" if choice.FILE and kind else ""
        rule = f"belongs to type {named}, not to {kind or 'null'}; leave it out{hint}"
        return OptionFault(fault.key, rule, fault.value)
    similar = sibling_key(fault.key, closest(option, choice.member(section).model_fields))
    return OptionFault(fault.key, fault.rule, fault.value, similar or fault.suggestion)
