"""Composing and running a command with Hydra, as ``hydra.main`` does, for commands that are installed as a package.

``hydra.main`` composes the whole tree an extra time to find out whether ``hydra.mode`` is set in it, a fifth of the
start-up, and searches the project's files before those of ``--config-dir``. Here the tree is composed once, unless
something on the command line can set ``hydra.mode``, and the user's files are searched first.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig

from diffusion_lab.cli.recipes import RecipeLoader
from diffusion_lab.faults import CommandError, ConfigWarning

VERSION_BASE = "1.3"
"""Version of Hydra whose defaults apply."""

OF_CONFIG_DIR = "command-line"
"""Hydra's name for the source ``--config-dir``."""

SETS_MODE = re.compile(r"[+~]*(experiment|hydra)\b")
"""Overrides that can set ``hydra.mode``: its own keys, and a recipe."""


@contextlib.contextmanager
def initialized_hydra(name: str, conf: Path | str, config_dir: str | None = None) -> Iterator[Hydra]:
    """Initialize Hydra inside the block.

    Args:
        name: Name of the job.
        conf: Folder of the settings, or ``pkg://PACKAGE``.
        config_dir: Folder of ``--config-dir``, searched before ``conf``, or None.
    """
    version.setbase(VERSION_BASE)
    hydra = Hydra(name, RecipeLoader(search_path(conf, config_dir)))
    GlobalHydra.instance().initialize(hydra)
    try:
        yield hydra
    finally:
        GlobalHydra.instance().clear()


def search_path(conf: Path | str, config_dir: str | None) -> ConfigSearchPath:
    """Return the folders in which Hydra searches files: its own, those of ``config_dir``, those of ``conf``."""
    path = create_config_search_path(str(conf))
    if config_dir is not None:
        source = f"file://{Path(config_dir).absolute()}"
        path.prepend(provider=OF_CONFIG_DIR, path=source, anchor=SearchPathQuery(provider="main"))
    return path


def check_options(args: Namespace) -> None:
    """Refuse options that exclude each other.

    Raises:
        CommandError: There are such options, or Hydra's experimental way to repeat a run is requested.
    """
    if args.experimental_rerun is not None:
        raise CommandError(
            "--experimental-rerun is not supported: the settings of a run are in the config.yaml of its folder"
        )
    if args.resolve and not args.cfg and not args.help:
        raise CommandError("--resolve only has an effect with --cfg or --help: add one of them, or remove it")
    options = ("run", "multirun", "cfg", "info", "shell_completion")
    typed = [f"--{option.replace('_', '-')}" for option in options if getattr(args, option)]
    if len(typed) > 1:
        raise CommandError(f"{' and '.join(typed)} exclude each other: use one of them")


def run_hydra(
    args: Namespace, task: Callable[[DictConfig], Any], name: str, conf: Path | str, config_name: str
) -> None:
    """Run a task with the settings that the command line composes, or print what it asks for.

    Args:
        args: Parsed command line.
        task: Function of the composed settings. It can be pickled, for launchers that start processes.
        name: Name of the job.
        conf: Folder of the settings, or ``pkg://PACKAGE``.
        config_name: Main file in it.
    """
    overrides = list(args.overrides)
    with initialized_hydra(name, conf, args.config_dir) as hydra:
        if args.help:
            hydra.app_help(config_name, get_args_parser(), args)
        elif args.hydra_help:
            hydra.hydra_help(config_name, get_args_parser(), args)
        elif args.cfg:
            hydra.show_cfg(config_name, overrides, args.cfg, args.package, args.resolve)
        elif args.shell_completion:
            hydra.shell_completion(config_name, overrides)
        elif args.info:
            hydra.show_info(args.info, config_name, overrides)
        else:
            mode = _mode(hydra, args, config_name, overrides)
            (hydra.multirun if mode == RunMode.MULTIRUN else hydra.run)(config_name, task, overrides)


def _mode(hydra: Hydra, args: Namespace, config_name: str, overrides: list[str]) -> RunMode:
    """Return whether to run a single job or a sweep, and add the override that says so."""
    has_own_files = args.config_dir or args.config_path or args.config_name
    mode = None
    if has_own_files or any(map(SETS_MODE.match, overrides)):
        mode = hydra.get_mode(config_name, overrides)
    if mode is None:
        mode = RunMode.MULTIRUN if args.multirun else RunMode.RUN
        overrides.append(f"hydra.mode={mode.name}")
    elif args.multirun and mode == RunMode.RUN:
        warnings.warn("-m runs a sweep although hydra.mode is RUN", ConfigWarning, stacklevel=2)
        mode = RunMode.MULTIRUN
        overrides.append("hydra.mode=MULTIRUN")
    return mode


def parse_arguments(arguments: list[str]) -> Namespace:
    """Return the parsed command line; settings may stand on both sides of an option."""
    return get_args_parser().parse_intermixed_args(arguments)
