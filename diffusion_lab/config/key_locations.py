"""Where each setting comes from: the file and line, or the command line."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Container, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import OmegaConf

from diffusion_lab.config.recipes import dropped_from_recipe
from diffusion_lab.config.settings_reader import leaves
from diffusion_lab.config.wandb_environment import variable_of

COMMAND_LINE = "command line"
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C it is several times as fast
FROM_WANDB = re.compile(r"\$\{wandb_or:(\w+),")
REFERENCE = re.compile(r"\$\{([\w.]+)\}")


class KeyLocations:
    """The place of the last statement that set a dotted key.

    Args:
        read_files: Takes in the files. It is called when a key was not typed: composing again takes time.
        overrides: ``key=value`` arguments, later than all files.
    """

    def __init__(
        self, read_files: Callable[[KeyLocations], None] = lambda _: None, overrides: Sequence[str] = ()
    ) -> None:
        self._read_files: Callable[[KeyLocations], None] | None = read_files
        self._typed = set(override_keys(overrides))
        self._set_one_by_one = set(_keys_set(overrides))
        self._places: dict[str, str] = {}
        self._references: dict[str, str] = {}

    def is_typed(self, key: str) -> bool:
        """Whether an override sets a key, or a section that holds it."""
        return bool(_nearest(key, self._typed))

    def is_typed_within(self, section: str) -> bool:
        """Whether an override sets a section, or a key in it."""
        return self.is_typed(section) or any(key.startswith(f"{section}.") for key in self._typed)

    def is_set_by_override(self, key: str) -> bool:
        """Whether an override sets a key itself, alone or in a section, which leaves the other keys as they were."""
        return key in self._set_one_by_one

    def location_of(self, key: str) -> str | None:
        """The place of a key, else of the section given as a whole; None where that is not known.

        A key that only repeats another, as ``checkpoint: ${ckpt}`` does, comes from where the other was set.
        """
        key = re.sub(r"\[.*", "", key)
        if _nearest(key, self._typed):
            return COMMAND_LINE
        return self.location_in_files(key)

    def location_in_files(self, key: str) -> str | None:
        """The place of a key in the files, whether or not an override sets its section."""
        if self._read_files is not None:
            self._read_files(self)
            self._read_files = None
        key = _nearest(key, self._places)
        followed: set[str] = set()
        while key in self._references and key not in followed:
            followed.add(key)
            meant = self._references[key]
            if _nearest(meant, self._typed):
                return COMMAND_LINE
            key = meant if meant in self._places else key
        return self._places.get(key)

    def add_file(self, path: Path, package: str = "", dropped: Collection[str] = ()) -> None:
        """Take in what a YAML file sets, later than all before.

        Args:
            path: The file.
            package: The place of its tree.
            dropped: Dotted keys of it that do not count.
        """
        shown = os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
        for key, node in _leaves(yaml.compose(path.read_text(encoding="utf-8"), Loader=LOADER), package):
            if key in dropped:
                continue
            for known in [known for known in self._places if known == key or known.startswith(f"{key}.")]:
                del self._places[known]
                self._references.pop(known, None)
            self._places[key] = _variable(node) or f"{shown}:{node.start_mark.line + 1}"
            reference = REFERENCE.fullmatch(node.value) if isinstance(node, yaml.ScalarNode) else None
            if reference:
                self._references[key] = reference[1]


def _variable(node: yaml.Node) -> str | None:
    """The environment variable that a value comes from."""
    found = FROM_WANDB.match(node.value) if isinstance(node, yaml.ScalarNode) else None
    name = variable_of(found[1]) if found else None
    return name and f"environment variable {name}"


def _nearest(key: str, known: Container[str]) -> str:
    """The key, or the innermost section around it, that is known; empty where none is."""
    while key and key not in known:
        key = key.rpartition(".")[0]
    return key


def _keys_set(overrides: Sequence[str]) -> Iterator[str]:
    """The dotted keys that ``key=value`` arguments set, those of a section one by one."""
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        value = override.value()
        key = override.key_or_group
        if isinstance(value, dict):
            yield from leaves({str(name): entry for name, entry in value.items()}, f"{key}.")
        else:
            yield key


def override_keys(overrides: Sequence[str]) -> list[str]:
    """The dotted key, or the group, of each ``key=value`` argument, without its ``+`` or ``~``."""
    return [override.key_or_group for override in OverridesParser.create().parse_overrides(list(overrides))]


def job_key_locations() -> KeyLocations:
    """Origins of the settings of the running Hydra job; empty where its files are out of reach."""
    if not HydraConfig.initialized() or not GlobalHydra.instance().is_initialized():
        return KeyLocations()
    job = HydraConfig.get()
    overrides = OmegaConf.to_container(job.overrides.task, resolve=False)  # their values may hold references
    return composed_key_locations(str(job.job.config_name), cast("list[str]", overrides))


def composed_key_locations(config_name: str, overrides: Sequence[str]) -> KeyLocations:
    """Origins of what the initialized Hydra composes from ``config_name`` and ``overrides``."""
    loader = cast("ConfigLoaderImpl", GlobalHydra.instance().config_loader())

    def read_files(locations: KeyLocations) -> None:
        folders = [Path(source.path) for source in loader.get_sources() if source.scheme() == "file"]
        defaults = loader.compute_defaults_list(config_name, list(overrides), RunMode.RUN).defaults
        recipe, dropped = dropped_from_recipe(defaults, CachingConfigRepository(loader.repository))
        for default in defaults:
            files = (folder / f"{default.config_path}.yaml" for folder in folders)
            file = next((file for file in files if file.is_file()), None)
            if file is not None:
                locations.add_file(file, default.package or "", dropped if default is recipe else ())

    pairs = zip(override_keys(overrides), overrides, strict=True)
    return KeyLocations(read_files, [override for key, override in pairs if not loader.get_group_options(key)])


def file_key_locations(path: Path, overrides: Sequence[str] = ()) -> KeyLocations:
    """Origins of the settings of a file that stands for itself, and of the overrides typed after it."""
    return KeyLocations(lambda locations: locations.add_file(path), overrides)


def _leaves(node: yaml.Node | None, key: str) -> Iterator[tuple[str, yaml.Node]]:
    """The values in a YAML document with their dotted keys; a list is one value."""
    if not isinstance(node, yaml.MappingNode) or not node.value:
        if node is not None and key:
            yield key, node
        return
    for name, value in node.value:
        yield from _leaves(value, f"{key}.{name.value}" if key else str(name.value))
