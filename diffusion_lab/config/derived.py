"""Values that are derived from a tree instead of being stated twice."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusion_lab.config.defaults import fill_for_generation
from diffusion_lab.config.schema import GenerateConfig, SubfolderSettings, root_of
from diffusion_lab.faults import ConfigError, Fault, closest, sibling_key
from diffusion_lab.typed_settings.section import home_expanded, name_inside
from diffusion_lab.typed_settings.settings_reader import SettingsReader, Unreadable, plain_tree
from diffusion_lab.typed_settings.spelling import normalize_spelling


def resolve_output_path(config: Mapping[str, Any], subdir_key: str = "logs") -> Path:
    """Return the folder ``base_dir/subdir``; it may not exist.

    Args:
        config: The tree.
        subdir_key: Key of ``output.subdirs``: logs, checkpoints, samples, generated, or an additional one of the tree.

    Raises:
        ConfigError: A ValueError: the tree has no such key, or its value is not a folder name inside ``base_dir``.

    >>> from diffusion_lab.config import get_default_config
    >>> resolve_output_path(get_default_config(), "checkpoints").as_posix()
    'outputs/checkpoints'
    >>> config = get_default_config()
    >>> config["output"]["subdirs"]["figures"] = "paper/figures"
    >>> resolve_output_path(config, subdir_key="figures").as_posix()
    'outputs/paper/figures'
    """
    base_dir, key = _read(config, "output.base_dir"), f"output.subdirs.{subdir_key}"
    subdirs = _read(config, "output.subdirs")
    names = list(dict.fromkeys([*SubfolderSettings.model_fields, *(subdirs if isinstance(subdirs, Mapping) else ())]))
    if subdir_key not in names:
        rule = f"unknown output folder; the folders are {', '.join(names)}"
        raise ConfigError([Fault(key, rule, suggestion=sibling_key(key, closest(subdir_key, names)))])
    folder = _read(config, key)
    try:
        return Path(home_expanded(base_dir), name_inside(folder if isinstance(folder, str) else ""))
    except ValueError as error:
        raise ConfigError([Fault(key, str(error), folder)]) from None


def derive_image_size_from_model(config: Mapping[str, Any]) -> int:
    """Return the image size of the data, which is the model's. Raises ValueError if the tree does not set it.

    >>> from diffusion_lab.config import get_default_config
    >>> derive_image_size_from_model(get_default_config())
    40
    """
    size: int = _read(config, "model.architecture.image_size")
    return size


def derive_return_labels_from_model(config: Mapping[str, Any]) -> bool:
    """Return whether the data yields labels, as for a class-conditional model. Raises ValueError if not set.

    >>> from diffusion_lab.config import get_default_config
    >>> derive_return_labels_from_model(get_default_config())
    False
    """
    return bool(_read(config, "model.conditioning.type") == "class")


def _read(config: Mapping[str, Any], key: str) -> Any:
    root, tree = root_of(config), plain_tree(config)
    normalize_spelling(tree, root)
    if root is GenerateConfig:
        fill_for_generation(tree, root)
    try:
        return SettingsReader(tree, root)[key]
    except Unreadable as error:
        raise ConfigError([Fault(key, "required, but missing")]) from error
