"""Whether ``model.diffusion.prediction`` was asked for, or merely comes with a file of the project.

It matters for checkpoints that do not say what their network predicts: those were trained with the default of the V2
format, epsilon, and the files in ``conf/diffusion`` choose ``v``, which is better for a new run.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusion_lab.config.key_locations import KeyLocations
from diffusion_lab.config.model_section import ModelSettings
from diffusion_lab.config.schema import GenerateConfig, RunConfig
from diffusion_lab.config.settings_reader import SettingsReader, Unreadable
from diffusion_lab.config.validate import ConfigT

KEY = "model.diffusion.prediction"

OF_THE_PROJECT = re.compile(
    r"(^|[/\\])("
    r"diffusion[/\\](continuous_cosine|cosine|edm|flow|linear|quadratic|sigmoid)"
    r"|experiment[/\\](ddpm_cifar10|ddpm_small_images|v2_default)"
    r")\.yaml:\d+$"
)
"""The place of a key in a file of the project that sets the prediction."""


def prediction_is_default(
    root: type[RunConfig], tree: Mapping[str, Any], places: KeyLocations, config_dir: str | None
) -> bool:
    """Whether nobody has asked for the prediction of settings that may be used with a checkpoint of another program.

    Args:
        root: TrainConfig or GenerateConfig.
        tree: The composed settings.
        places: Where the keys were set.
        config_dir: The user's own folder of settings, None without one.
    """
    if places.is_set_by_override(KEY) or not _may_read_such_a_checkpoint(root, tree):
        return False
    place = places.location_in_files(KEY) or ""
    return bool(OF_THE_PROJECT.search(place)) and not _is_inside(place, config_dir)


def _may_read_such_a_checkpoint(root: type[RunConfig], tree: Mapping[str, Any]) -> bool:
    """Whether it matters; finding out where a key was set takes time."""
    if root is GenerateConfig:
        return isinstance(tree.get("model"), Mapping)
    with contextlib.suppress(Unreadable):
        return bool(SettingsReader(tree, root)["training.resume.enabled"])
    return False


def _is_inside(place: str, folder: str | None) -> bool:
    return folder is not None and Path(place).resolve().is_relative_to(Path(folder).resolve())


def with_default_prediction(config: ConfigT) -> ConfigT:
    """The same settings, in which nobody has asked for the prediction."""
    model: ModelSettings | None = getattr(config, "model", None)
    if model is None:
        return config
    model = model.model_copy(update={"diffusion": model.diffusion.with_default_prediction()})
    return config.model_copy(update={"model": model})
