"""Validate a complete settings tree and convert it to typed objects."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from functools import partial
from typing import Any, TypeVar

from pydantic import ValidationError

from diffusion_lab.config.consistency import IMPORTING_RULES, RULES, RULES_AT_START, faults_of_rules
from diffusion_lab.config.defaults import fill_for_generation, fill_model, get_default_config
from diffusion_lab.config.model_section import ModelOfCheckpoint
from diffusion_lab.config.path_rules import misspelled_subfolders
from diffusion_lab.config.sampler_section import default_sampler
from diffusion_lab.config.schema import CHOICES, GenerateConfig, RunConfig, TrainConfig, root_of, suggest_key
from diffusion_lab.config.suspicious_settings import suspicious_settings
from diffusion_lab.console.redaction import REDACTED, holds_redacted
from diffusion_lab.data.auto_size import measure_images
from diffusion_lab.faults import ConfigError, ConfigWarning, Fault, faults_of
from diffusion_lab.typed_settings.option_rules import OptionFault, name_owners
from diffusion_lab.typed_settings.section import Section
from diffusion_lab.typed_settings.settings_reader import (
    SettingsReader,
    Unreadable,
    expand_home,
    leaves,
    limit_integers,
    plain_tree,
)
from diffusion_lab.typed_settings.signatures import drop_leftovers
from diffusion_lab.typed_settings.spelling import normalize_spelling

ConfigT = TypeVar("ConfigT", bound=RunConfig)
IsTyped = Callable[[str, object], bool]
"""Returns whether the user gave a dotted key its value."""
SectionT = TypeVar("SectionT", bound=Section)


def validate_config(config: Mapping[str, Any]) -> None:
    """Check a V2 settings tree without building or writing anything.

    The result is the same on any machine, except that the checkpoint that a run samples or resumes from must exist.
    Whether image folders exist is checked when a run starts.

    A class that the tree names by its dotted path is imported, to check its arguments. Importing runs code: check only
    trees that you trust.

    Raises:
        ConfigError: A ValueError that lists every fault on its own line: dotted key, value, rule, and a suggestion
            for a mistyped name.

    Warns:
        ConfigWarning: A UserWarning for each value that is allowed but probably not intended.

    >>> from diffusion_lab.config import get_default_config
    >>> config = get_default_config()
    >>> validate_config(config)
    >>> config["training"]["ema"] = {"enabled": True, "deacy": 0.999}
    >>> try:
    ...     validate_config(config)
    ... except ValueError as error:
    ...     print(error)
    2 settings are wrong:
      training.ema.deacy = 0.999: unknown key (did you mean 'training.ema.decay'?)
      training.ema.decay: required, but missing
    """
    parse_config(config)


def validate_config_consistency(config: Mapping[str, Any]) -> None:
    """Check that the keys of a tree are consistent, then replace ``training.scheduler.T_max: auto`` by the epochs.

    Keys with faults of their own are skipped. Class conditioning needs ``num_classes`` of at least 1, or ``auto``;
    ``use_attention`` needs one entry per stage; the image size must be divisible as the stages require;
    ``beta_start`` must be below ``beta_end``; the run must log the validation metric; the keys of the learning-rate
    schedule must belong to its type; a checkpoint that is read must exist.

    Args:
        config: The tree. ``T_max`` is set in place if it is ``auto`` and ``training.epochs`` is valid; a tree with
            contradictions is not changed.

    Raises:
        ConfigError: A ValueError that lists every contradiction on its own line, or says that the tree cannot be
            changed, as with a read-only OmegaConf tree.

    >>> from diffusion_lab.config import get_default_config
    >>> config = get_default_config() | {"mode": "generate", "generation": {"checkpoint": "."}}
    >>> config["model"]["diffusion"]["beta_start"] = 0.5
    >>> try:
    ...     validate_config_consistency(config)
    ... except ValueError as error:
    ...     print(error)
    1 setting is wrong:
      model.diffusion.beta_start = 0.5: must be less than model.diffusion.beta_end, 0.02
    >>> config = get_default_config()
    >>> validate_config_consistency(config)
    >>> config["training"]["scheduler"]["T_max"] == config["training"]["epochs"]
    True
    """
    root = root_of(config)
    tree, contradictions = _prepare(config, root, [], _is_no_default)
    faults = {fault.key: fault for fault in field_faults(tree, root)}
    classes = faults.pop("model.conditioning.num_classes", None)
    reader = SettingsReader(tree, root, faults)
    contradictions += faults_of_rules((*RULES, *IMPORTING_RULES), reader)
    contradictions += [fault for fault in faults.values() if isinstance(fault, OptionFault)]
    already_reported = classes is None or any(fault.key == classes.key for fault in contradictions)
    _raise_if_any(contradictions if already_reported or classes is None else [*contradictions, classes])
    _resolve_t_max(config, reader)


def _resolve_t_max(config: Mapping[str, Any], reader: SettingsReader) -> None:
    """Replace ``T_max: auto`` by the number of epochs."""
    with contextlib.suppress(Unreadable, KeyError):  # a section that generation does not need
        if reader["training.scheduler.T_max"] != "auto" or "T_max" not in config["training"]["scheduler"]:
            return
        epochs, scheduler = reader["training.epochs"], config["training"]["scheduler"]
        if "T_max" not in scheduler:  # filled in for a part of the section, which stays one
            return
        try:
            if not isinstance(scheduler, MutableMapping):
                raise TypeError(type(scheduler).__name__)
            scheduler["T_max"] = epochs
        except Exception as error:  # OmegaConf raises its own errors for read-only trees
            rule = (
                f"is replaced by training.epochs, {epochs}, in place, but this tree cannot be changed: pass a mutable "
                "copy, or check it with validate_config, which changes nothing"
            )
            raise ConfigError([Fault("training.scheduler.T_max", rule, "auto")]) from error


def parse_config(config: Mapping[str, Any]) -> TrainConfig | GenerateConfig:
    """Return the typed settings of a V2 tree, by its ``mode``. Raises and warns as ``validate_config`` does."""
    return parse_as(root_of(config), config)


def parse_as(
    root: type[ConfigT],
    config: Mapping[str, Any],
    faults: Sequence[Fault] = (),
    default_steps: bool = False,
    starts: bool = False,
    is_typed: IsTyped | None = None,
) -> ConfigT:
    """Return the typed settings of a V2 tree of a given mode.

    Args:
        root: TrainConfig or GenerateConfig.
        config: The tree; not modified.
        faults: Faults found earlier, reported together with the others.
        default_steps: Whether ``sampler.steps`` is a default of the project, which is reduced for a process with fewer
            steps. Always true if the tree has no sampler.
        starts: Whether the run starts now on this machine, so that its folders are checked too.
        is_typed: Returns whether the user gave a dotted key its value; without it, whether that is not the default.
    """
    all_faults = list(faults)
    tree, contradictions = _prepare(config, root, all_faults, is_typed or _is_no_default)
    all_faults += contradictions
    if "sampler" not in tree:
        tree["sampler"], default_steps = default_sampler().model_dump(), True
    if default_steps:
        _limit_default_steps(tree, SettingsReader(tree, root))
    known = {fault.key for fault in all_faults}
    all_faults += [fault for fault in field_faults(tree, root) if fault.key not in known]
    reader = SettingsReader(tree, root, [fault.key for fault in all_faults])
    rules = (*RULES, *IMPORTING_RULES, *(RULES_AT_START if starts else ()))
    _raise_if_any([*all_faults, *faults_of_rules(rules, reader)])
    for message in suspicious_settings(reader):
        warnings.warn(message, ConfigWarning, stacklevel=3)
    parsed = root.model_validate(tree)
    return parsed.model_copy(update={"sampler": parsed.sampler.with_default_steps()}) if default_steps else parsed


def _is_no_default(key: str, value: object) -> bool:
    """Return whether an option of a built-in class differs from the default tree, or from that of the class."""
    section, _, option = key.rpartition(".")
    choice = next(choice for choice in CHOICES if section == choice.KEY)
    defaults = [choice.options_of(owner)[option].default for owner in choice.owners_of(option)]
    return value not in [*defaults, leaves(get_default_config()).get(key)]


def _prepare(
    config: Mapping[str, Any], root: type[RunConfig], excess: list[Fault], is_typed: IsTyped
) -> tuple[dict[str, Any], list[Fault]]:
    """Return a copy of a tree with everything that is derived filled in, and the contradictions found on the way.

    Integers that are too long to print become faults in ``excess``.
    """
    tree = limit_integers(plain_tree(config), excess)
    expand_home(tree, root)
    normalize_spelling(tree, root)
    drop_leftovers(tree, CHOICES, is_typed)
    contradictions: list[Fault] = []
    with contextlib.suppress(Unreadable):  # before the missing names are filled in
        contradictions += misspelled_subfolders(SettingsReader(tree, root))
    if root is GenerateConfig:
        fill_for_generation(tree, root)
    else:
        contradictions += measure_images(tree)
    return tree, contradictions


def check_ready_to_start(config: RunConfig) -> None:
    """Raise ConfigError, a ValueError, if folders in validated settings prevent the run from starting here."""
    _raise_if_any(faults_of_rules(RULES_AT_START, SettingsReader(config.model_dump(mode="json"), type(config))))


def _limit_default_steps(tree: dict[str, Any], reader: SettingsReader) -> None:
    """Limit the default number of sampling steps to the number of timesteps of a training run."""
    with contextlib.suppress(Unreadable, TypeError):
        if reader["mode"] == "train" and reader["model.diffusion.type"] == "discrete":
            tree["sampler"]["steps"] = min(tree["sampler"]["steps"], reader["model.diffusion.num_timesteps"])


def parse_section(
    section: type[SectionT], values: Mapping[str, Any], key: str, import_classes: bool = False
) -> SectionT:
    """Return one typed section without the rest of its tree, such as the model of a checkpoint.

    Args:
        section: Its class.
        values: Its keys.
        key: Its dotted key in a complete tree, used in fault messages.
        import_classes: Import the class at a dotted path and check its arguments: only for the user's own settings.
            Otherwise nothing is imported, and a dotted path is accepted unchecked.

    Raises:
        ConfigError: A ValueError that lists every fault in the section, contradictions included.
    """
    faults: list[Fault] = []
    plain = limit_integers(plain_tree(values), faults, key)
    normalize_spelling(plain, section)
    if section is ModelOfCheckpoint:
        fill_model(plain, section)
    try:
        section.model_validate(plain)
    except ValidationError as error:
        faults += faults_of(error.errors(), plain, partial(suggest_key, root=TrainConfig), key)
    tree = plain
    for name in reversed(key.split(".")):
        tree = {name: tree}
    faults = list(name_owners(faults, tree, CHOICES))
    reader = SettingsReader(tree, TrainConfig, [fault.key for fault in faults])
    contradictions = faults_of_rules((*RULES, *(IMPORTING_RULES if import_classes else ())), reader)
    _raise_if_any([*faults, *(fault for fault in contradictions if fault.key.startswith(f"{key}."))])
    return section.model_validate(plain)


def field_faults(tree: Mapping[str, Any], root: type[Section]) -> list[Fault]:
    """Return the faults of single keys, secrets replaced by a placeholder included."""
    try:
        root.model_validate(tree)
    except ValidationError as error:
        return list(name_owners(faults_of(error.errors(), tree, partial(suggest_key, root=root)), tree, CHOICES))
    return [
        Fault(key, "a secret that was left out when this was written: give its value", value)
        for key, value in leaves(tree).items()
        if value == REDACTED or (isinstance(value, list) and holds_redacted(value))
    ]


def _raise_if_any(faults: Iterable[Fault]) -> None:
    ordered = sorted(faults, key=lambda fault: fault.key)
    if ordered:
        raise ConfigError(ordered)
