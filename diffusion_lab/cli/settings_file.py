"""Settings from one standalone file, without composition by Hydra."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffusion_lab.cli.key_locations import KeyLocations, file_key_locations
from diffusion_lab.cli.overrides import explain_syntax_error, refuse_excess
from diffusion_lab.cli.yaml_file import load_tree
from diffusion_lab.config.schema import GenerateConfig, TrainConfig, root_of
from diffusion_lab.config.validate import parse_as
from diffusion_lab.faults import CommandError, ConfigError, Fault
from diffusion_lab.faults.unresolved import resolved
from diffusion_lab.v1.migration import is_v1, migrate_config_v1_to_v2


def read_settings(file: Path, overrides: Sequence[str] = ()) -> TrainConfig | GenerateConfig:
    """Return the settings of a complete V2 file, or of a V1 file, by its ``mode``.

    Args:
        file: YAML. References such as ``${experiment}`` to its own keys are resolved.
        overrides: ``key=value`` with V2 keys, as on Hydra's command line; ``~key`` deletes a key.

    Raises:
        ConfigError: A ValueError with every fault: key, value, rule, and line of the file or command line.
        ValueError: The file is not valid YAML or not a mapping, or an override cannot be parsed.
        OSError: The file cannot be read.

    Warns:
        ConfigWarning: As ``validate_config`` does, and for a V1 file as ``migrate_config_v1_to_v2`` does.
    """
    tree = load_tree(file)
    old = is_v1(tree)
    if old:
        tree = OmegaConf.create(migrate_config_v1_to_v2(_plain(tree, file_key_locations(file))))
    _override(tree, overrides)
    locations = KeyLocations(overrides=overrides) if old else file_key_locations(file, overrides)
    faults: list[Fault] = []
    values = resolved(tree, faults)
    try:
        return parse_as(root_of(values), values, faults, starts=True, is_typed=locations.is_set_with_type)
    except ConfigError as error:
        raise error.with_locations(locations.location_of) from None


def _plain(tree: DictConfig, locations: KeyLocations) -> dict[str, Any]:
    """Return a tree with references resolved. Raises ConfigError for those that cannot be resolved."""
    faults: list[Fault] = []
    plain: dict[str, Any] = resolved(tree, faults)
    if faults:
        raise ConfigError(faults).with_locations(locations.location_of)
    return plain


def _override(tree: DictConfig, overrides: Sequence[str]) -> None:
    refuse_excess(overrides)
    try:
        for override in OverridesParser.create().parse_overrides(list(overrides)):
            if override.is_delete():
                _delete(tree, override.key_or_group)
            else:
                OmegaConf.update(tree, override.key_or_group, override.value(), merge=False, force_add=True)
    except (HydraException, OmegaConfBaseException) as error:
        message = explain_syntax_error(overrides) or f"the override cannot be used: {str(error).strip()}"
        raise CommandError(message) from error


def _delete(tree: DictConfig, key: str) -> None:
    parent, _, name = key.rpartition(".")
    section = OmegaConf.select(tree, parent) if parent else tree
    if not isinstance(section, DictConfig) or name not in section:
        raise ConfigError([Fault(key, "cannot be deleted: there is no such key")])
    del section[name]
