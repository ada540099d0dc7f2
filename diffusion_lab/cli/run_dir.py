"""``hydra.run.dir`` of a single run: another way to set the run folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, read_write

from diffusion_lab.cli.key_locations import COMMAND_LINE, override_keys
from diffusion_lab.faults import CommandError, Fault

SWEEP_SETTINGS = ("hydra.sweep.", "hydra/launcher=", "hydra.launcher.", "hydra/sweeper", "hydra.sweeper.")
"""Prefixes of arguments that have no effect in a single run."""

EXISTING_FOLDER = "."
"""Folder that ``conf/launch.yaml`` lets Hydra create, since it already exists."""


class RunDirCallback(Callback):
    """Use Hydra's run folder as ``output.base_dir``.

    Hydra itself then creates no folder, so that a command with faults leaves none behind.
    """

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        folder = config.hydra.run.dir
        if folder == EXISTING_FOLDER:
            return
        if "output.base_dir" not in override_keys(config.hydra.overrides.task):
            OmegaConf.update(config, "output.base_dir", folder)
        if config.hydra.output_subdir is None:  # otherwise Hydra writes its own files there
            with read_write(config.hydra):
                config.hydra.run.dir = EXISTING_FOLDER


def check_hydra_folders(overrides: Iterable[str], sweeps: bool) -> None:
    """Refuse Hydra settings that have no effect in this kind of command.

    Args:
        overrides: Arguments ``key=value`` of the command line.
        sweeps: Whether the command runs a sweep.

    Raises:
        CommandError: A sweep sets the folder of a single run, or a single run sets options of a sweep.
    """
    for override in overrides:
        key = override.lstrip("+")
        if sweeps and key.startswith("hydra.run.dir="):
            raise CommandError("hydra.run.dir is for a single run: set the folder of a sweep with hydra.sweep.dir")
        if not sweeps and key.startswith(SWEEP_SETTINGS):
            raise CommandError(f"{override} only has an effect in a sweep: add -m for a sweep, or remove it")


def hydra_folder_faults() -> Iterator[Fault]:
    """Yield faults of Hydra's folder settings that are incompatible with the running job."""
    if not HydraConfig.initialized():
        return
    hydra = HydraConfig.get()
    typed = [each.partition("=")[2] for each in hydra.overrides.hydra if each.startswith("hydra.run.dir=")]
    if typed and "output.base_dir" in override_keys(hydra.overrides.task):
        rule = "cannot be set together with output.base_dir, which sets the same folder"
        yield Fault("hydra.run.dir", rule, typed[-1], location=COMMAND_LINE)
    if hydra.job.chdir:
        rule = "must be false: the paths of all settings are relative to the folder in which the command is run"
        yield Fault("hydra.job.chdir", rule, True)
