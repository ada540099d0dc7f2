"""Detection of ``model.diffusion.prediction`` set explicitly, as opposed to a default of the project's files.

It matters for checkpoints that do not record what their network predicts: those were trained with the default of the V2
format, epsilon, while the files in ``conf/diffusion`` set ``v``, which is better for a new run.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusion_lab.cli.key_locations import KeyLocations
from diffusion_lab.config.model_section import ModelSettings
from diffusion_lab.config.schema import GenerateConfig, RunConfig
from diffusion_lab.config.validate import ConfigT
from diffusion_lab.console.command_line import CONF
from diffusion_lab.typed_settings.settings_reader import SettingsReader, Unreadable

KEY = "model.diffusion.prediction"

PROJECT_FILE = re.compile(r"(?:^|[/\\])((?:diffusion|experiment)[/\\]\w+\.yaml):\d+$")
"""Location of a key in a file of the groups that set the prediction."""


def prediction_is_default(
    root: type[RunConfig], tree: Mapping[str, Any], locations: KeyLocations, config_dir: str | None
) -> bool:
    """Return whether the prediction is only a default, in settings that may be used with another program's checkpoint.

    Args:
        root: TrainConfig or GenerateConfig.
        tree: Composed settings.
        locations: Locations of the keys.
        config_dir: Folder of ``--config-dir``, or None.
    """
    if locations.is_set_by_override(KEY) or not _may_read_foreign_checkpoint(root, tree):
        return False
    location = locations.location_in_files(KEY) or ""
    file = PROJECT_FILE.search(location)
    return file is not None and (CONF / file[1]).is_file() and not _is_inside(location, config_dir)


def _may_read_foreign_checkpoint(root: type[RunConfig], tree: Mapping[str, Any]) -> bool:
    """Return whether the prediction may matter; locating a key takes time."""
    if root is GenerateConfig:
        return isinstance(tree.get("model"), Mapping)
    with contextlib.suppress(Unreadable):
        return bool(SettingsReader(tree, root)["training.resume.enabled"])
    return False


def _is_inside(location: str, folder: str | None) -> bool:
    return folder is not None and Path(location).resolve().is_relative_to(Path(folder).resolve())


def with_default_prediction(config: ConfigT) -> ConfigT:
    """Return the same settings with the prediction marked as a default."""
    model: ModelSettings | None = getattr(config, "model", None)
    if model is None:
        return config
    model = model.model_copy(update={"diffusion": model.diffusion.with_default_prediction()})
    return config.model_copy(update={"model": model})
