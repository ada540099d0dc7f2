"""Keys that a mistyped key probably stands for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from diffusion_lab.faults import closest, sibling_key
from diffusion_lab.faults.key_aliases import AMBIGUOUS, keys_with_alias


def similar_key(unknown: str, keys: Sequence[str], used_sections: Collection[str]) -> str | None:
    """Return the key that a mistyped dotted key probably stands for: an alias, or a similar name.

    Args:
        unknown: The dotted key.
        keys: All dotted keys of the tree.
        used_sections: Top-level sections that this kind of run uses, whose keys are more likely.

    Returns:
        A dotted key as it should be typed. Two equally likely keys are returned as ``one or other``.
    """
    parent, _, name = unknown.rpartition(".")
    siblings = [key.rpartition(".")[2] for key in keys if key.rpartition(".")[0] == parent]
    misspelled = closest(name, siblings, cutoff=0.9)
    if misspelled:
        return sibling_key(unknown, misspelled)
    aliased = [key for key in keys_with_alias(name) if key in keys]
    normalized = name.lower().replace("-", "_")
    same_name = [key for key in keys if key.rpartition(".")[2] in (name, normalized)]
    likely = _prefer_section(parent, [*aliased, *(key for key in same_name if key not in aliased)], used_sections)
    if aliased and likely:
        return " or ".join(likely[:2] if name in AMBIGUOUS else likely[:1])
    if likely:
        return closest(unknown, likely) or likely[0]
    similar = closest(name, siblings)
    if similar:
        return sibling_key(unknown, similar)
    elsewhere = _nearest_name(normalized, keys)
    if elsewhere:
        likely = _prefer_section(parent, elsewhere, used_sections)
        return closest(unknown, likely) or likely[0]
    return closest(unknown, keys)


def _nearest_name(name: str, keys: Iterable[str]) -> list[str]:
    """Return the keys in any section whose last part is most similar to a misspelled name, if very similar."""
    names: dict[str, list[str]] = {}
    for key in keys:
        names.setdefault(key.rpartition(".")[2], []).append(key)
    return names.get(closest(name, names, cutoff=0.75) or "", [])


def _prefer_section(parent: str, candidates: list[str], used_sections: Collection[str]) -> list[str]:
    """Return the candidates in the section that was typed, else those that this kind of run uses, else all."""
    section = parent.partition(".")[0]
    typed = [key for key in candidates if section and key.startswith(f"{section}.")]
    used = [key for key in candidates if key.partition(".")[0] in used_sections]
    return typed or used or candidates
