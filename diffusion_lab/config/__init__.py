"""Configuration: one schema of types, bounds and descriptions; defaults; validation. Does not import torch.

``get_default_config`` and ``validate_config`` work on plain trees (dicts, as loaded from YAML);
``parse_config`` turns a tree into the typed objects that all other code uses.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from diffusion_lab.config.defaults import get_default_config
from diffusion_lab.config.derived import (
    derive_image_size_from_model,
    derive_return_labels_from_model,
    resolve_output_path,
)
from diffusion_lab.config.schema import GenerateConfig, RunConfig, TrainConfig
from diffusion_lab.config.validate import parse_config, validate_config, validate_config_consistency
from diffusion_lab.faults import ConfigDeprecationWarning, ConfigError, ConfigWarning, Fault

__all__ = [
    "ConfigDeprecationWarning",
    "ConfigError",
    "ConfigWarning",
    "Fault",
    "GenerateConfig",
    "RunConfig",
    "TrainConfig",
    "derive_image_size_from_model",
    "derive_return_labels_from_model",
    "get_default_config",
    "is_v1",
    "is_v2",
    "migrate_config_v1_to_v2",
    "parse_config",
    "resolve_output_path",
    "v1_deprecation",
    "validate_config",
    "validate_config_consistency",
]

_V1 = ("v1_deprecation", "is_v1", "is_v2", "migrate_config_v1_to_v2")


def __getattr__(name: str) -> Any:
    """Import what migrates V1 files on first use: it builds on this package."""
    if name not in _V1:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("diffusion_lab.v1.migration"), name)
