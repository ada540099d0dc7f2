"""Convert what Hydra composed to typed settings.

Importing this module registers the resolvers that ``conf/`` uses, and the way recipes are composed.
"""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from diffusion_lab.cli.default_prediction import prediction_is_default, with_default_prediction
from diffusion_lab.cli.hydra_app import OF_CONFIG_DIR
from diffusion_lab.cli.interpolations import check_interpolations
from diffusion_lab.cli.key_locations import KeyLocations, job_key_locations
from diffusion_lab.cli.run_dir import hydra_folder_faults
from diffusion_lab.config.schema import GenerateConfig, RunConfig, TrainConfig
from diffusion_lab.config.validate import ConfigT, parse_as
from diffusion_lab.console.command_line import usage
from diffusion_lab.faults import ConfigError
from diffusion_lab.faults.unresolved import resolved
from diffusion_lab.runtime.import_class import find_classes_in
from diffusion_lab.runtime.wandb_environment import from_environment
from diffusion_lab.sweeps.folders import job_folder, sweep_job_or, sweep_name_or
from diffusion_lab.typed_settings.settings_reader import SettingsReader, Unreadable

SHORT_NAMES = (
    "ckpt",
    "num_samples",
    "guidance_scale",
    "labels",
    "seed",
    "device",
    "use_ema",
    "ema_decay",
    "trust",
    "wandb",
)
"""Top-level keys of ``conf/sample.yaml`` that only fill V2 keys."""

NAME = "name"
"""Short name in ``conf/train.yaml``: it fills ``experiment``, since ``experiment=`` selects a recipe there."""

SAMPLER_FILE = re.compile(r"(^|[/\\])sampler[/\\][^/\\]+:\d+$")
"""Location of a key that is set by a file of the group ``sampler``."""


def compose_train_config(
    composed: DictConfig, read_locations: Callable[[], KeyLocations] = job_key_locations
) -> TrainConfig:
    """Return the settings of a training run.

    Raises ConfigError with all faults, broken references included, and where their keys were set (``read_locations``).
    """
    return _compose(TrainConfig, composed, read_locations, (NAME,))


def compose_generate_config(
    composed: DictConfig, read_locations: Callable[[], KeyLocations] = job_key_locations
) -> GenerateConfig:
    """Return the settings of a generation run, without its short names. Raises as ``compose_train_config`` does."""
    return _compose(GenerateConfig, composed, read_locations, SHORT_NAMES)


def _compose(
    root: type[ConfigT],
    composed: DictConfig,
    read_locations: Callable[[], KeyLocations],
    short_names: Sequence[str] = (),
) -> ConfigT:
    check_interpolations(OmegaConf.to_container(composed, resolve=False), "the composed configuration")
    find_classes_in(config_dir())  # again: a job of a sweep may run in a process without a command line
    faults = list(hydra_folder_faults())
    tree = resolved(composed, faults)
    for name in short_names:
        tree.pop(name, None)
    locations = read_locations()
    try:
        default_steps = _steps_are_default(root, tree, locations)
        parsed = parse_as(root, tree, faults, default_steps, starts=True, is_typed=locations.is_set_with_type)
    except ConfigError as error:
        raise error.with_suggestions(short_names).with_locations(locations.location_of) from None
    return with_default_prediction(parsed) if prediction_is_default(root, tree, locations, config_dir()) else parsed


def _steps_are_default(root: type[RunConfig], tree: Mapping[str, Any], locations: KeyLocations) -> bool:
    """Return whether the number of sampling steps is only the default of the chosen sampler."""
    if locations.is_typed("sampler.steps"):
        return False
    if root is GenerateConfig:
        return True  # only the files of the group set it
    with contextlib.suppress(Unreadable, TypeError):
        reader = SettingsReader(tree, root)
        if reader["sampler.steps"] > reader["model.diffusion.num_timesteps"]:  # otherwise it makes no difference
            return SAMPLER_FILE.search(locations.location_of("sampler.steps") or "") is not None
    return False


def new_name() -> str:
    """Return a name for a folder that the user did not name: the time, and six random digits.

    The digits separate commands that start in the same second, even on different machines.
    """
    return f"{datetime.now():%Y-%m-%d_%H-%M-%S}-{secrets.token_hex(3)}"


def run_folder(experiment: str, name: str | None = None) -> str:
    """Return the folder of this run: ``outputs/EXPERIMENT/NAME``, in a multirun, the job's folder in the sweep's.

    Args:
        experiment: Name of the experiment.
        name: Name of the folder; a new one if None.
    """
    return sweep_job_or(str(Path("outputs", experiment, name or new_name())))


def config_dir() -> str | None:
    """Return the folder given by ``--config-dir`` of the running Hydra job."""
    if not HydraConfig.initialized():
        return None
    sources = HydraConfig.get().runtime.config_sources
    return next((str(source.path) for source in sources if source.provider == OF_CONFIG_DIR), None)


OmegaConf.register_new_resolver("new_name", new_name, use_cache=True, replace=True)  # the same throughout one command
OmegaConf.register_new_resolver("run_folder", run_folder, use_cache=False, replace=True)
OmegaConf.register_new_resolver("sweep_job_or", sweep_job_or, use_cache=False, replace=True)
OmegaConf.register_new_resolver("sweep_name_or", sweep_name_or, use_cache=False, replace=True)


def wandb_or(key: str, otherwise: str | None) -> str | None:
    """Return the value of W&B's environment variable for a key of the section ``logger``, else ``otherwise``."""
    return from_environment(key) or otherwise


OmegaConf.register_new_resolver("usage", usage, use_cache=False, replace=True)  # in the text of --help
OmegaConf.register_new_resolver("wandb_or", wandb_or, use_cache=False, replace=True)
OmegaConf.register_new_resolver("job_folder", job_folder, replace=True)
