"""``hydra.run.dir`` of a single run: another way to name the run folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, read_write

from diffusion_lab.config.faults import CommandError, Fault
from diffusion_lab.config.key_locations import COMMAND_LINE, override_keys

OF_SWEEPS = ("hydra.sweep.", "hydra/launcher=", "hydra.launcher.", "hydra/sweeper", "hydra.sweeper.")
"""Beginnings of arguments that a single run does not read."""

NOWHERE = "."
"""Where ``conf/launch.yaml`` lets Hydra make a folder: one that is there already."""


class RunDirCallback(Callback):
    """Makes ``output.base_dir`` of what Hydra takes for the folder of a run.

    Hydra itself then makes no folder, so that a command with faults leaves none behind.
    """

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        folder = config.hydra.run.dir
        if folder == NOWHERE:
            return
        if "output.base_dir" not in override_keys(config.hydra.overrides.task):
            OmegaConf.update(config, "output.base_dir", folder)
        if config.hydra.output_subdir is None:  # else Hydra has files of its own to put there
            with read_write(config.hydra):
                config.hydra.run.dir = NOWHERE


def check_hydra_folders(overrides: Iterable[str], sweeps: bool) -> None:
    """Refuse settings of Hydra that only the other kind of command reads.

    Args:
        overrides: The arguments ``key=value`` of the command line.
        sweeps: Whether the command runs a sweep.

    Raises:
        CommandError: A sweep is given the folder of a single run, or a single run what belongs to a sweep.
    """
    for override in overrides:
        key = override.lstrip("+")
        if sweeps and key.startswith("hydra.run.dir="):
            raise CommandError("hydra.run.dir is of a single run: name the folder of a sweep with hydra.sweep.dir")
        if not sweeps and key.startswith(OF_SWEEPS):
            raise CommandError(f"{override} has an effect in a sweep alone: add -m for a sweep, or leave it out")


def hydras_folder_faults() -> Iterator[Fault]:
    """Settings of Hydra's folders that the running job cannot follow."""
    if not HydraConfig.initialized():
        return
    hydra = HydraConfig.get()
    typed = [each.partition("=")[2] for each in hydra.overrides.hydra if each.startswith("hydra.run.dir=")]
    if typed and "output.base_dir" in override_keys(hydra.overrides.task):
        rule = "must be left out beside output.base_dir, which names the same"
        yield Fault("hydra.run.dir", rule, typed[-1], location=COMMAND_LINE)
    if hydra.job.chdir:
        rule = "must be false: the paths of all settings are relative to the folder where the command is typed"
        yield Fault("hydra.job.chdir", rule, True)
