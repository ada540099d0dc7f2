"""Default tree of the V2 format, and values that are derived from a tree instead of being stated twice."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusion_lab.config.schema import SubfolderSettings, root_of
from diffusion_lab.config.section import home_expanded, name_inside
from diffusion_lab.config.settings_reader import SettingsReader, Unreadable, plain_tree
from diffusion_lab.config.spelling import normalize_spelling
from diffusion_lab.faults import ConfigError, Fault, closest, sibling_key


def get_default_config() -> dict[str, Any]:
    """Return the complete default tree as a plain dict, a new one at each call.

    >>> get_default_config()["training"]["ema"]
    {'enabled': True, 'decay': 0.9999}
    """
    return {
        "experiment": "diffusion",
        "mode": "train",
        "compute": {"device": "cuda", "seed": None},
        "model": _default_model(),
        "data": _default_data(),
        "output": {
            "base_dir": "outputs",
            "subdirs": {name: name for name in SubfolderSettings.model_fields},
        },
        "training": _default_training(),
        "generation": {
            "checkpoint": None,
            "sampling": {"num_samples": 100, "guidance_scale": 3.0, "use_ema": True},
            "output": {"save_individual": True, "save_grid": True, "grid_nrow": 10},
        },
    }


def _default_model() -> dict[str, Any]:
    return {
        "architecture": {
            "image_size": 40,
            "in_channels": 3,
            "model_channels": 64,
            "channel_multipliers": [1, 2, 4],
            "use_attention": [False, False, True],
        },
        "diffusion": {
            "num_timesteps": 1000,
            "beta_schedule": "cosine",
            "beta_start": 0.0001,
            "beta_end": 0.02,
        },
        "conditioning": {"type": None, "num_classes": None, "class_dropout_prob": 0.1},
    }


def _default_data() -> dict[str, Any]:
    return {
        "paths": {"train": "data/train", "val": None},
        "loading": {
            "batch_size": 32,
            "num_workers": 4,
            "pin_memory": True,
            "shuffle_train": True,
            "drop_last": False,
        },
        "augmentation": {
            "horizontal_flip": True,
            "rotation_degrees": 0,
            "color_jitter": {"enabled": False, "strength": 0.1},
        },
    }


def _default_training() -> dict[str, Any]:
    return {
        "epochs": 200,
        "optimizer": {
            "type": "adam",
            "learning_rate": 0.0001,
            "weight_decay": 0.0,
            "betas": [0.9, 0.999],
            "gradient_clip_norm": None,
        },
        "scheduler": {"type": None, "T_max": "auto", "eta_min": 1.0e-6},
        "ema": {"enabled": True, "decay": 0.9999},
        "checkpointing": {"save_frequency": 10, "save_best_only": False, "save_optimizer": True},
        "validation": {"enabled": True, "frequency": 1, "metric": "loss"},
        "visualization": {"enabled": True, "interval": 10, "num_samples": 8, "guidance_scale": 3.0},
        "performance": {
            "use_amp": False,
            "use_tf32": True,
            "cudnn_benchmark": True,
            "compile_model": False,
        },
        "resume": {
            "enabled": False,
            "checkpoint": None,
            "reset_optimizer": False,
            "reset_scheduler": False,
        },
    }


def resolve_output_path(config: Mapping[str, Any], subdir_key: str = "logs") -> Path:
    """Return the folder ``base_dir/subdir``; it may not exist.

    Args:
        config: The tree.
        subdir_key: Key of ``output.subdirs``: logs, checkpoints, samples, generated, or an additional one of the tree.

    Raises:
        ConfigError: A ValueError: the tree has no such key, or its value is not a folder name inside ``base_dir``.

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

    >>> derive_image_size_from_model(get_default_config())
    40
    """
    size: int = _read(config, "model.architecture.image_size")
    return size


def derive_return_labels_from_model(config: Mapping[str, Any]) -> bool:
    """Return whether the data yields labels, as for a class-conditional model. Raises ValueError if not set.

    >>> derive_return_labels_from_model(get_default_config())
    False
    """
    return bool(_read(config, "model.conditioning.type") == "class")


def _read(config: Mapping[str, Any], key: str) -> Any:
    root, tree = root_of(config), plain_tree(config)
    normalize_spelling(tree, root)
    try:
        return SettingsReader(tree, root)[key]
    except Unreadable as error:
        raise ConfigError([Fault(key, "required, but missing")]) from error
