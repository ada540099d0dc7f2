"""The command line that gives the settings of a file: the nearest files of ``conf/`` and the differing keys."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from diffusion_lab.command_line import command, setting
from diffusion_lab.config.choice import ChoiceSettings
from diffusion_lab.config.compose import NAME, SHORT_NAMES, compose_generate_config, compose_train_config
from diffusion_lab.config.conf_files import ConfFiles
from diffusion_lab.config.faults import ConfigError, ConfigWarning, Fault
from diffusion_lab.config.recipes import RECIPES
from diffusion_lab.config.schema import GenerateConfig, TrainConfig, root_of
from diffusion_lab.config.section import Section
from diffusion_lab.config.settings_reader import leaves
from diffusion_lab.config.validate import parse_as

SectionT = TypeVar("SectionT", bound=Section)

NOT_READ_WHEN_GENERATING = ("experiment", "data", "training", "evaluation", "logger")
"""A file that is used for both modes has them; ``sample.py`` does without."""

MOST_ROUNDS = 3
"""An override may change what another key refers to, which then differs in its turn."""


def nearest_command(config: Mapping[str, Any], conf: Path) -> str:
    """The shell command, ``python train.py ...`` or ``python sample.py ...``, that gives the settings of a V2 tree.

    It names the recipe and the files of ``conf/`` that leave the fewest keys to be set one by one, and sets those. It
    has been composed and compared with the tree: all typed settings are equal, those included that the tree leaves to
    defaults. With ``mode: generate``, what generation does not read is left aside.

    Args:
        config: The tree.
        conf: The project's folder of settings.

    Raises:
        ConfigError: A ValueError: the tree has faults.
        ValueError: It has settings that no command line gives.
    """
    wanted = parse_as(root_of(config), config, starts=True)
    script = "train" if isinstance(wanted, TrainConfig) else "sample"
    files, settings = ConfFiles(conf, script), _settings(wanted)
    choice = files.nearest_choice(settings)
    short = {f"${{{name}}}": name for name in (*SHORT_NAMES, NAME)}
    short_names = {key: short[value] for key, value in files.root.values.items() if str(value) in short}
    arguments = [f"{group}={choice[group]}" for group in sorted(choice, key=RECIPES.__ne__)]
    overrides: dict[str, str] = {}
    try:
        with initialize_config_dir(str(conf.resolve()), version_base="1.3"):
            composed = compose(script, arguments)
            for _ in range(MOST_ROUNDS):
                further = dict(_overrides(_values(composed), settings, short_names))
                if not further:
                    break
                overrides |= further
                composed = compose(script, [*arguments, *overrides.values()])
            _verify(composed, wanted)
    except HydraException as error:
        raise ValueError(f"no command line gives these settings: {' '.join(str(error).split())}") from error
    return command(f"{script}.py", *arguments, *overrides.values())


def _settings(config: TrainConfig | GenerateConfig) -> dict[str, Any]:
    """Typed settings by dotted key, as YAML would hold them."""
    ignored = () if isinstance(config, TrainConfig) else NOT_READ_WHEN_GENERATING
    return leaves(_comparable(config).model_dump(mode="json", exclude=set(ignored)))


def _comparable(config: TrainConfig | GenerateConfig) -> TrainConfig | GenerateConfig:
    """The settings with each option of the classes they name, given or not; without what generation does not read."""
    unread = () if isinstance(config, TrainConfig) else NOT_READ_WHEN_GENERATING
    return _complete(config.model_copy(update=dict.fromkeys((NAME, *unread))))


def _complete(section: SectionT) -> SectionT:
    if isinstance(section, ChoiceSettings):
        return section.complete()
    inner = {name: value for name, value in section if isinstance(value, Section)}
    return section.model_copy(update={name: _complete(value) for name, value in inner.items()})


def _values(composed: DictConfig) -> dict[str, Any]:
    tree: Any = OmegaConf.to_container(composed, resolve=True)
    ignored = (NAME,) if tree["mode"] == "train" else (*NOT_READ_WHEN_GENERATING, *SHORT_NAMES)
    return leaves({name: value for name, value in tree.items() if name not in ignored})


def _overrides(
    composed: Mapping[str, Any], wanted: Mapping[str, Any], short_names: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """An override for each key that is composed otherwise than wanted, by key."""
    for key, value in wanted.items():
        if key not in composed and value is not None:
            yield key, f"+{setting(key, value)}"
        elif key in composed and composed[key] != value:
            yield key, setting(short_names.get(key, key), value)
    for key in sorted(composed.keys() - wanted.keys()):
        if composed[key] is not None:  # which Hydra does not take for a value, and the options of a type neither
            yield key, f"~{key}"


def _verify(composed: DictConfig, wanted: TrainConfig | GenerateConfig) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConfigWarning)  # the file's own, told before
        compose_config = compose_train_config if isinstance(wanted, TrainConfig) else compose_generate_config
        found = compose_config(composed)
    if _comparable(found) != _comparable(wanted):
        got, meant = _settings(found), _settings(wanted)
        different = [key for key in sorted(got.keys() | meant.keys()) if got.get(key) != meant.get(key)]
        raise ConfigError([Fault(key, "no command line was found that gives it", meant.get(key)) for key in different])
