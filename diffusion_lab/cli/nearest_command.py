"""Command line that reproduces the settings of a file: the closest files of ``conf/`` and the differing keys."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from hydra import compose
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from diffusion_lab.cli.compose import NAME, SHORT_NAMES, compose_generate_config, compose_train_config
from diffusion_lab.cli.conf_files import ConfFiles
from diffusion_lab.cli.hydra_app import initialized_hydra
from diffusion_lab.cli.recipes import RECIPES
from diffusion_lab.config.schema import GenerateConfig, TrainConfig, root_of
from diffusion_lab.config.validate import parse_as
from diffusion_lab.console.command_line import command, setting
from diffusion_lab.faults import ConfigError, ConfigWarning, Fault
from diffusion_lab.typed_settings.choice import ChoiceSettings
from diffusion_lab.typed_settings.section import Section
from diffusion_lab.typed_settings.settings_reader import leaves

SectionT = TypeVar("SectionT", bound=Section)

IGNORED_WHEN_GENERATING = ("experiment", "data", "training", "evaluation", "logger")
"""Sections of files used for both modes, which ``sample.py`` ignores."""

MAX_ROUNDS = 3
"""Rounds of overrides: one may change the target of another key's reference, which then differs as well."""


def nearest_command(config: Mapping[str, Any], conf: Path) -> str:
    """Return the shell command that trains or samples with the settings of a V2 tree, such as ``python train.py …``.

    It selects the recipe and the files of ``conf/`` that leave the fewest keys to set individually, and sets those. The
    command has been composed and compared with the tree: all typed settings are equal, including defaults. With
    ``mode: generate``, settings that generation ignores are omitted.

    Args:
        config: Settings tree.
        conf: Folder of the project's settings.

    Raises:
        ConfigError: A ValueError: the tree has faults.
        ValueError: It has settings that no command line reproduces.
    """
    target = parse_as(root_of(config), config, starts=True)
    script = "train" if isinstance(target, TrainConfig) else "sample"
    files, settings = ConfFiles(conf, script), _settings(target)
    choice = files.nearest_choice(settings)
    short = {f"${{{name}}}": name for name in (*SHORT_NAMES, NAME)}
    short_names = {key: short[value] for key, value in files.root.values.items() if str(value) in short}
    arguments = [f"{group}={choice[group]}" for group in sorted(choice, key=RECIPES.__ne__)]
    overrides: dict[str, str] = {}
    try:
        with initialized_hydra(script, conf.resolve()):
            composed = compose(script, arguments)
            for _ in range(MAX_ROUNDS):
                further = dict(_overrides(_values(composed), settings, short_names))
                if not further:
                    break
                overrides |= further
                composed = compose(script, [*arguments, *overrides.values()])
            _verify(composed, target)
    except HydraException as error:
        raise ValueError(f"no command line reproduces these settings: {' '.join(str(error).split())}") from error
    return command(script, *arguments, *overrides.values())


def _settings(config: TrainConfig | GenerateConfig) -> dict[str, Any]:
    """Return typed settings by dotted key, as in YAML."""
    if isinstance(config, TrainConfig):
        unrecorded = {"preview": config.preview, "tune": config.tune.model_dump()}
        return leaves(_comparable(config).model_dump(mode="json") | unrecorded)
    return leaves(_comparable(config).model_dump(mode="json", exclude=set(IGNORED_WHEN_GENERATING)))


def _comparable(config: TrainConfig | GenerateConfig) -> TrainConfig | GenerateConfig:
    """Return the settings with all options of the classes they name, without what generation ignores."""
    ignored = () if isinstance(config, TrainConfig) else IGNORED_WHEN_GENERATING
    return _complete(config.model_copy(update=dict.fromkeys((NAME, *ignored))))


def _complete(section: SectionT) -> SectionT:
    if isinstance(section, ChoiceSettings):
        return section.complete()
    inner = {name: value for name, value in section if isinstance(value, Section)}
    return section.model_copy(update={name: _complete(value) for name, value in inner.items()})


def _values(composed: DictConfig) -> dict[str, Any]:
    tree: Any = OmegaConf.to_container(composed, resolve=True)
    ignored = (NAME,) if tree["mode"] == "train" else (*IGNORED_WHEN_GENERATING, *SHORT_NAMES)
    return leaves({name: value for name, value in tree.items() if name not in ignored})


def _overrides(
    composed: Mapping[str, Any], target: Mapping[str, Any], short_names: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Yield an override for each key whose composed value differs from the target, by key."""
    for key, value in target.items():
        if key not in composed and value is not None:
            yield key, f"+{setting(key, value)}"
        elif key in composed and composed[key] != value:
            yield key, setting(short_names.get(key, key), value)
    for key in sorted(composed.keys() - target.keys()):
        if composed[key] is not None:  # null counts as unset, for Hydra and for options of a type
            yield key, f"~{key}"


def _verify(composed: DictConfig, target: TrainConfig | GenerateConfig) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConfigWarning)  # warnings about the file, already shown
        compose_config = compose_train_config if isinstance(target, TrainConfig) else compose_generate_config
        reproduced = compose_config(composed)
    if _comparable(reproduced) != _comparable(target):
        actual, expected = _settings(reproduced), _settings(target)
        different = [key for key in sorted(actual.keys() | expected.keys()) if actual.get(key) != expected.get(key)]
        raise ConfigError(
            [Fault(key, "no command line was found that reproduces it", expected.get(key)) for key in different]
        )
