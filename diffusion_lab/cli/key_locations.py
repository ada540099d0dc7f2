"""Location at which each setting was given: file and line, or the command line."""

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

from diffusion_lab.cli.recipes import dropped_from_recipe
from diffusion_lab.runtime.wandb_environment import variable_of
from diffusion_lab.typed_settings.settings_reader import leaves

COMMAND_LINE = "command line"
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C version is several times as fast
FROM_WANDB = re.compile(r"\$\{wandb_or:(\w+),")
REFERENCE = re.compile(r"\$\{([\w.]+)\}")


class KeyLocations:
    """Location of the last statement that set each dotted key.

    Args:
        read_files: Adds the files. Called only for a key that was not typed, since composing again takes time.
        overrides: ``key=value`` arguments, applied after all files.
    """

    def __init__(
        self, read_files: Callable[[KeyLocations], None] = lambda _: None, overrides: Sequence[str] = ()
    ) -> None:
        self._read_files: Callable[[KeyLocations], None] | None = read_files
        self._typed = set(override_keys(overrides))
        self._set_one_by_one = set(_keys_set(overrides))
        self._locations: dict[str, str] = {}
        self._references: dict[str, str] = {}

    def is_typed(self, key: str) -> bool:
        """Return whether an override sets a key, or a section that holds it."""
        return bool(_nearest(key, self._typed))

    def is_typed_within(self, section: str) -> bool:
        """Return whether an override sets a section, or a key in it."""
        return self.is_typed(section) or any(key.startswith(f"{section}.") for key in self._typed)

    def is_set_by_override(self, key: str) -> bool:
        """Return whether an override sets a key itself, alone or in a section, whose other keys stay unchanged."""
        return key in self._set_one_by_one

    def is_set_with_type(self, key: str, _: object = None) -> bool:
        """Return whether an override sets an option of a section, or the file that sets the ``type`` of the section."""
        kind = f"{key.rpartition('.')[0]}.type"
        files = [(self.location_in_files(each) or "").rpartition(":")[0] for each in (key, kind)]
        return self.is_typed(key) or (not self.is_typed(kind) and files[0] == files[1] != "")

    def location_of(self, key: str) -> str | None:
        """Return the location of a key, else that of the section that was given as a whole; None if unknown.

        A key that only repeats another, as ``checkpoint: ${ckpt}`` does, has the location of the other key.
        """
        key = re.sub(r"\[.*", "", key)
        if _nearest(key, self._typed):
            return COMMAND_LINE
        return self.location_in_files(key)

    def location_in_files(self, key: str) -> str | None:
        """Return the location of a key in the files, whether or not an override sets its section."""
        if self._read_files is not None:
            self._read_files(self)
            self._read_files = None
        key = _nearest(key, self._locations)
        followed: set[str] = set()
        while key in self._references and key not in followed:
            followed.add(key)
            target = self._references[key]
            if _nearest(target, self._typed):
                return COMMAND_LINE
            key = target if target in self._locations else key
        return self._locations.get(key)

    def add_file(self, path: Path, package: str = "", dropped: Collection[str] = ()) -> None:
        """Add the keys that a YAML file sets, after all earlier files.

        Args:
            path: The file.
            package: Dotted key under which its tree is inserted.
            dropped: Dotted keys of the file to ignore.
        """
        display_path = os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
        for key, node in _leaves(yaml.compose(path.read_text(encoding="utf-8"), Loader=LOADER), package):
            if key in dropped:
                continue
            for known in [known for known in self._locations if known == key or known.startswith(f"{key}.")]:
                del self._locations[known]
                self._references.pop(known, None)
            self._locations[key] = _variable(node) or f"{display_path}:{node.start_mark.line + 1}"
            reference = REFERENCE.fullmatch(node.value) if isinstance(node, yaml.ScalarNode) else None
            if reference:
                self._references[key] = reference[1]


def _variable(node: yaml.Node) -> str | None:
    """Return the environment variable that a value comes from, or None."""
    match = FROM_WANDB.match(node.value) if isinstance(node, yaml.ScalarNode) else None
    name = variable_of(match[1]) if match else None
    return name and f"environment variable {name}"


def _nearest(key: str, known: Container[str]) -> str:
    """Return the key, or the innermost known section that contains it; empty if there is none."""
    while key and key not in known:
        key = key.rpartition(".")[0]
    return key


def _keys_set(overrides: Sequence[str]) -> Iterator[str]:
    """Yield the dotted keys that ``key=value`` arguments set, those of a section one by one."""
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        value = override.value()
        key = override.key_or_group
        if isinstance(value, dict):
            yield from leaves({str(name): entry for name, entry in value.items()}, f"{key}.")
        else:
            yield key


def override_keys(overrides: Sequence[str]) -> list[str]:
    """Return the dotted key, or the group, of each ``key=value`` argument, without its ``+`` or ``~``."""
    return [override.key_or_group for override in OverridesParser.create().parse_overrides(list(overrides))]


def job_key_locations() -> KeyLocations:
    """Return the locations of the settings of the running Hydra job; empty if its files are not available."""
    if not HydraConfig.initialized() or not GlobalHydra.instance().is_initialized():
        return KeyLocations()
    job = HydraConfig.get()
    overrides = OmegaConf.to_container(job.overrides.task, resolve=False)  # their values may contain references
    return composed_key_locations(str(job.job.config_name), cast("list[str]", overrides))


def composed_key_locations(config_name: str, overrides: Sequence[str]) -> KeyLocations:
    """Return the locations of what the initialized Hydra composes from ``config_name`` and ``overrides``."""
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
    """Return the locations of the settings of a standalone file and of overrides that follow it."""
    return KeyLocations(lambda locations: locations.add_file(path), overrides)


def _leaves(node: yaml.Node | None, key: str) -> Iterator[tuple[str, yaml.Node]]:
    """Yield the values in a YAML document with their dotted keys; a list is one value."""
    if not isinstance(node, yaml.MappingNode) or not node.value:
        if node is not None and key:
            yield key, node
        return
    for name, value in node.value:
        yield from _leaves(value, f"{key}.{name.value}" if key else str(name.value))
