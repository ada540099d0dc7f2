"""Migration from V1, the flat format of older files, to V2."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from typing import Any

from diffusion_lab.config.defaults import get_default_config
from diffusion_lab.config.scheduler_section import SCHEDULES, SchedulerSettings
from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.console.command_line import command
from diffusion_lab.faults import (
    ConfigDeprecationWarning,
    ConfigError,
    ConfigWarning,
    Fault,
    closest,
    shown,
    sibling_key,
)
from diffusion_lab.typed_settings.settings_reader import known_keys, leaves
from diffusion_lab.typed_settings.spelling import spelled
from diffusion_lab.v1.folders import output_folders
from diffusion_lab.v1.format import FOLDERS, MOVES, SAMPLE_KEYS_UNDER_GENERATION, V1_KEYS, V1_SECTIONS

V1_IS_REMOVED_IN = "1.0"
"""Version of the project that no longer reads V1."""

V1_IS_DEPRECATED = (
    f"these settings are in the V1 format, which is deprecated and will be removed in version {V1_IS_REMOVED_IN}: "
    "docs/migration-v1-to-v2.md describes the changes"
)
"""Message without the hint, for the command that migrates."""

V2_KEYS = frozenset(known_keys(TrainConfig))
ONLY_V1 = frozenset({*V1_KEYS, *V1_SECTIONS} - V2_KEYS)
ONLY_V2 = frozenset(
    {key for key in V2_KEYS if any(known.startswith(f"{key}.") for known in V2_KEYS)} - V1_SECTIONS
    | {"output.base_dir"}
)
"""Sections that only V2 has; single keys are not used to decide, since they may be typos."""
SECTIONS_ONLY_IN_V2 = ("training.optimizer", "training.scheduler")
"""Keys with a single value in V1."""


def v1_deprecation() -> str:
    """Return the deprecation warning for V1 settings."""
    return f"{V1_IS_DEPRECATED}; {command('migrate', '-i', 'OLD.yaml', '-o', 'NEW.yaml')} writes them as V2"


def is_v1(tree: Mapping[Any, Any]) -> bool:
    """Return whether a tree has keys that only V1 has, and none of the sections that only V2 has.

    >>> is_v1({"device": "cpu", "model": {"image_size": 32}})
    True
    """
    old, new = format_marks(tree)
    return bool(old) and not new


def is_v2(tree: Mapping[Any, Any]) -> bool:
    """Return whether a tree has sections that only V2 has, and none of the keys that only V1 has.

    >>> is_v2({"compute": {"device": "cpu"}, "model": {"architecture": {"image_size": 32}}})
    True
    """
    old, new = format_marks(tree)
    return bool(new) and not old


def migrate_config_v1_to_v2(v1: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a V1 settings tree to a complete V2 tree, with its order of sections and V2's defaults for missing keys.

    Values are copied unchanged: invalid ones stay invalid in V2, where ``validate_config`` reports them.

    Args:
        v1: The tree; not modified. A V2 tree is returned as an unchanged copy.

    Raises:
        TypeError: It is not a mapping.
        ConfigError: A ValueError: the tree is neither V1 nor V2, has a duplicate setting with different values, or
            contradicts what V2 derives (``data.image_size`` and ``data.return_labels`` must match the model).

    Warns:
        ConfigDeprecationWarning: A FutureWarning: V1 will be removed. Once per call.
        ConfigWarning: One UserWarning that lists each key without a counterpart in V2 and each folder that moves; or
            that the tree is already V2.

    >>> old = {"device": "cpu", "model": {"image_size": 32, "num_classes": 10}, "training": {"scheduler": "none"}}
    >>> new = migrate_config_v1_to_v2(old)
    >>> new["compute"], new["model"]["conditioning"]
    ({'device': 'cpu', 'seed': None}, {'type': 'class', 'num_classes': 10, 'class_dropout_prob': 0.1})
    >>> new["training"]["scheduler"]
    {'type': None, 'T_max': 'auto', 'eta_min': 1e-06}
    """
    if not isinstance(v1, Mapping):
        raise TypeError(f"a configuration must be a mapping of keys to values, got {type(v1).__name__}")
    old_marks, new_marks = format_marks(v1)
    if new_marks and not old_marks:
        warnings.warn("the configuration is already V2: nothing to migrate", ConfigWarning, stacklevel=2)
        return deepcopy(dict(v1))
    if not old_marks:
        rule = "is neither V1 (no key like device or model.image_size) nor V2 (no section like compute or data.paths)"
        raise ConfigError([Fault("configuration", rule)])
    if new_marks:
        raise ConfigError([_mixed(key, old_marks[0]) for key in new_marks])
    return _migrated(v1)


def _mixed(key: str, old: str) -> Fault:
    """Return the fault of a V2 section in a tree with V1 keys, with the V1 names of its keys."""
    spellings = [before for before, after in MOVES if f"{after}.".startswith(f"{key}.") and before != after]
    in_v1 = f"; V1 has {', '.join(spellings[:3])}{' …' if spellings[3:] else ''}" if spellings else ""
    return Fault(key, f"is of V2, but {old} is of V1: keep to one format{in_v1}")


def format_marks(tree: Mapping[Any, Any]) -> tuple[list[str], list[str]]:
    """Return the keys in a tree that only V1 has, and those that only V2 has."""
    old: list[str] = []
    new: list[str] = []
    for key, section, name in _walk(tree):
        if key in SECTIONS_ONLY_IN_V2:
            (new if isinstance(section[name], Mapping) else old).append(key)
        elif key in ONLY_V1:
            old.append(key)
        elif key in ONLY_V2:
            new.append(key)
    return old, new


def _walk(tree: Mapping[Any, Any], parent: str = "") -> Iterator[tuple[str, Mapping[Any, Any], Any]]:
    """Yield the keys of a tree and of V1 sections in it: dotted key, section, name.

    A value is read only if it may be such a section, since others may be references that cannot be resolved.
    """
    for name in tree:
        key = f"{parent}{name}"
        yield key, tree, name
        if key in V1_SECTIONS and isinstance(tree[name], Mapping):
            yield from _walk(tree[name], f"{key}.")


def _migrated(v1: Mapping[str, Any]) -> dict[str, Any]:
    all_keys = {key: section[name] for key, section, name in _walk(v1)}
    old = {key: deepcopy(value) for key, value in all_keys.items() if key not in V1_SECTIONS}
    new = leaves(get_default_config())
    faults = [*_non_section_faults(all_keys), *_move(old, new), *_contradictions(old, new)]
    notes = [*_unknown_key_notes(old), *_choose_schedule(old, new)]
    _multiply_by_classes(old, new)
    try:
        notes += _place_folders(old, new)
    except ConfigError as error:
        faults += error.faults
    if faults:
        raise ConfigError(faults)
    warnings.warn(v1_deprecation(), ConfigDeprecationWarning, stacklevel=3)
    if notes:
        warnings.warn("\n  ".join(["not all of V1 is in V2:", *notes]), ConfigWarning, stacklevel=3)
    return _in_order(_nested(new), [str(name) for name in v1])


def _non_section_faults(all_keys: Mapping[str, Any]) -> Iterator[Fault]:
    for key, value in all_keys.items():
        if key in V1_SECTIONS and not (value is None or isinstance(value, Mapping)):
            yield Fault(key, "must be a section of keys", value)


def _move(old: Mapping[str, Any], new: dict[str, Any]) -> Iterator[Fault]:
    """Copy the values of V1 keys to their V2 keys."""
    sources: dict[str, str] = {}
    for key, target in MOVES:
        if key not in old:
            continue
        first = sources.setdefault(target, key)
        if old[key] != old[first]:
            yield Fault(key, f"contradicts {first} = {shown(old[first])}, the same setting: keep one", old[key])
        new[target] = spelled(TrainConfig, target, old[first])
    classes = new["model.conditioning.num_classes"]
    new["model.conditioning.type"] = None if classes is None else "class"
    shared, own = "generation.guidance_scale", "training.visualization.guidance_scale"
    if shared in old and own not in old and any(key in old for key in SAMPLE_KEYS_UNDER_GENERATION):
        new[own] = old[shared]


def _contradictions(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield the faults of duplicate V1 keys that contradict the model."""
    conditional = new["model.conditioning.type"] is not None
    derived = {
        "data.image_size": (new["model.architecture.image_size"], "model.image_size"),
        "data.return_labels": (conditional, f"model.num_classes being {'set' if conditional else 'null'}"),
    }
    for key, (value, source) in derived.items():
        if old.get(key) is not None and old[key] != value:
            yield Fault(key, f"must be {shown(value)} because of {source}, or be left out: V2 derives it", old[key])


def _unknown_key_notes(old: Mapping[str, Any]) -> Iterator[str]:
    names = {key: key.rpartition(".") for key in V1_KEYS}
    for key, value in old.items():
        if key not in names:
            parent, _, name = key.rpartition(".")
            elsewhere = [known for known, parts in names.items() if parts[2] == name]
            siblings = [parts[2] for parts in names.values() if parts[0] == parent]
            suggestion = elsewhere[0] if elsewhere else sibling_key(key, closest(name, siblings))
            hint = f" (did you mean {suggestion!r}?)" if suggestion else ""
            yield f"{key} = {shown(value)}: not a V1 key, left out{hint}"


def _choose_schedule(old: Mapping[str, Any], new: dict[str, Any]) -> Iterator[str]:
    """Keep the options that the type of learning-rate schedule uses; the defaults of V2 are those of a cosine."""
    section = "training.scheduler"
    kind = new[f"{section}.type"]
    if not (kind is None or isinstance(kind, str)):
        return
    used = SchedulerSettings.options_of(kind) if kind in SCHEDULES else None
    for key in [key for key in new if key.startswith(f"{section}.") and key != f"{section}.type"]:
        name = key.rpartition(".")[2]
        source = f"training.scheduler_kwargs.{name}"
        if source not in old and kind not in (None, "cosine"):
            del new[key]
        elif source in old and used is not None and name not in used:
            del new[key]
            yield f"{source} = {shown(old[source])}: not used with scheduler {kind or 'none'}, left out"


def _multiply_by_classes(old: Mapping[str, Any], new: dict[str, Any]) -> None:
    """Convert V1's number of sample images per class to V2's total number."""
    key, classes = "training.visualization.num_samples", new["model.conditioning.num_classes"]
    count = new[key]
    if any(place == key and source in old for source, place in MOVES) and type(count) is type(classes) is int:
        new[key] = count * classes


def _place_folders(old: Mapping[str, Any], new: dict[str, Any]) -> Iterator[str]:
    folders = {key: old[key] for key in FOLDERS if old.get(key) is not None}
    invalid = {key: value for key, value in folders.items() if not (isinstance(value, str) and value.strip())}
    if invalid:
        raise ConfigError([Fault(key, "must be a path", value) for key, value in invalid.items()])
    if not folders:
        return
    new_folders = output_folders(folders, new["output.base_dir"])
    new["output.base_dir"] = new_folders.base_dir
    new |= {f"output.subdirs.{name}": folder for name, folder in new_folders.subdirs.items()}
    for key, path in new_folders.moved.items():
        yield f"{key} = {shown(folders[key])}: V2 has one base folder, {new_folders.base_dir}; its new path is {path}"


def _nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in leaves.items():
        *sections, name = key.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = value
    return tree


def _in_order(tree: dict[str, Any], v1_names: Iterable[str]) -> dict[str, Any]:
    """Return the sections in the order of the V1 file; missing ones follow their predecessor in V2's order."""
    renamed = {old.split(".")[0]: new.split(".")[0] for old, new in MOVES if old.split(".")[0] not in tree}
    order = [name for name in dict.fromkeys(renamed.get(name, name) for name in v1_names) if name in tree]
    before = None
    for name in tree:
        if name not in order:
            order.insert(0 if before is None else order.index(before) + 1, name)
        before = name
    return {name: tree[name] for name in order}
