"""Start of a command that Hydra composes, with mistyped overrides explained like other faults of the settings."""

from __future__ import annotations

import re
import sys
import traceback
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml
from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import CompactHydraException, MissingConfigException
from omegaconf import DictConfig

from diffusion_lab.cli.completion import completion_script
from diffusion_lab.cli.hydra_app import check_options, initialized_hydra, parse_arguments, run_hydra
from diffusion_lab.cli.key_locations import KeyLocations, composed_key_locations, override_keys
from diffusion_lab.cli.optional_packages import install_hint, names_in
from diffusion_lab.cli.overrides import (
    check_separate_folders,
    check_sweep_not_empty,
    check_sweep_size,
    check_trains,
    explain_syntax_error,
    refuse_excess,
)
from diffusion_lab.cli.refused_overrides import explain_refused, hydra_settings, refuse_unread
from diffusion_lab.cli.report import run_and_report
from diffusion_lab.cli.run_dir import check_hydra_folders
from diffusion_lab.config.schema import suggest_key
from diffusion_lab.console.command_line import CONF, Start, current_start, set_start, set_typed_command, setting
from diffusion_lab.console.messages import sentence
from diffusion_lab.faults import CommandError, ConfigError, closest
from diffusion_lab.runtime.exit_codes import EXIT_CODE
from diffusion_lab.runtime.import_class import find_classes_in
from diffusion_lab.sweeps.jobs import run_job
from diffusion_lab.sweeps.launchers import check_launcher
from diffusion_lab.sweeps.summary import sweep_summary
from diffusion_lab.typed_settings.section import Section, home_expanded
from diffusion_lab.typed_settings.settings_reader import known_keys

Check = Callable[[DictConfig, Callable[[], KeyLocations]], object]

NO_GROUPS = ("hydra", "standalone")
"""Folders of the settings that are not groups of the command line."""

HYDRA_FOLDERS = ("hydra.run.dir", "hydra.sweep.dir")
"""Settings of Hydra that are paths; paths of the project are expanded during validation."""


@dataclass(frozen=True)
class Program:
    """Command that composes its settings from the groups in ``conf/``.

    Attributes:
        name: Name of the command, and of its main file in ``conf/``.
        run: Function that runs the composed settings. It is in a module, for launchers that start processes.
        check: Function that raises ConfigError for composed settings with faults, such as ``compose_train_config``.
        root: Schema of the settings.
        short_names: Short names at the top level.
    """

    name: str
    run: Callable[[DictConfig], None]
    check: Check
    root: type[Section]
    short_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """Runs composed settings, also in the process of a job, where commands are printed as in that of the sweep."""

    run: Callable[[DictConfig], None]
    start: Start

    def __call__(self, composed: DictConfig) -> float | None:
        """Check and run the settings. Return the best value, for sweepers that search, such as Optuna's."""
        set_start(self.start)
        return run_and_report(lambda: run_job(self.run, composed))


def launch(program: Program, arguments: Sequence[str]) -> None:
    """Run a program with Hydra.

    Hydra rejects an override of a key that the composed tree lacks before any of our code runs. The settings are then
    composed once more with that key allowed, so that ``program.check`` finds it, suggests what was probably intended,
    and reports the other faults as well.

    Args:
        program: The program.
        arguments: Its command line.
    """
    set_typed_command(program.name, arguments)
    args = parse_arguments([expand_home_in(argument) for argument in arguments])
    conf = _conf(args)
    run_and_report(lambda: _check(program, args, conf))
    if args.shell_completion and args.overrides[:1] != ["query=bash"]:
        print(run_and_report(lambda: completion_script(args.overrides)))
        return
    find_classes_in(args.config_dir)
    if not _only_shows(args):
        run_and_report(lambda: _check_run(args, conf))
    try:
        with sweep_summary():
            task = Task(program.run, current_start())
            run_hydra(args, task, program.name, conf, args.config_name or program.name)
    except Exception as error:
        if not isinstance(error, CompactHydraException) and not _while_composing(error):
            raise
        message = explain_syntax_error(args.overrides, _folder(conf)) or _explain(error, program, args, conf)
        print(f"Error: {sentence(message)}", file=sys.stderr)
        raise SystemExit(EXIT_CODE) from error


def _conf(args: Namespace) -> Path | str:
    """Return the folder of the settings: the project's, or that of ``--config-path``."""
    if args.config_path is None:
        return CONF
    return str(args.config_path) if "://" in args.config_path else Path(args.config_path).absolute()


def _folder(conf: Path | str) -> Path:
    """Return the folder in which groups are looked up for messages."""
    return conf if isinstance(conf, Path) and conf.is_dir() else CONF


def _check(program: Program, args: Namespace, conf: Path | str) -> None:
    """Refuse arguments that cannot be composed, or that the program does not read. Raises ValueError."""
    check_options(args)
    refuse_excess(args.overrides)
    if args.config_dir is not None and not Path(args.config_dir).is_dir():
        raise CommandError(f"--config-dir must be an existing folder, got {args.config_dir!r}")
    if program.name != "train" and args.config_name is None:
        refuse_unread(args.overrides, _groups_of_training(_folder(conf), program.name), program.name)


def _check_run(args: Namespace, conf: Path | str) -> None:
    """Refuse arguments with which nothing can run, or nothing would. Raises ValueError."""
    check_hydra_folders(args.overrides, _sweeps(args))
    check_launcher(args.overrides)
    if _sweeps(args):
        check_sweep_size(args.overrides)
        check_separate_folders(args.overrides)
        check_trains(args.overrides)
        check_sweep_not_empty(args.overrides, [_folder(conf), *_user_folders(args)])


def _user_folders(args: Namespace) -> list[Path]:
    """Return the folder of ``--config-dir``, if there is one."""
    return [] if args.config_dir is None else [Path(args.config_dir)]


def expand_home_in(argument: str) -> str:
    """Return an argument with ``~`` expanded if it is a folder of Hydra's, which Hydra creates before any check.

    >>> expand_home_in("training.epochs=3")
    'training.epochs=3'
    """
    key, _, value = argument.partition("=")
    if key not in HYDRA_FOLDERS or not value.startswith("~"):
        return argument
    return setting(key, str(home_expanded(value)))


def _only_shows(args: Namespace) -> bool:
    """Return whether the command line asks Hydra to print something instead of running the application."""
    return bool(args.help or args.hydra_help or args.cfg or args.info or args.shell_completion)


def _sweeps(args: Namespace) -> bool:
    """Return whether the command line asks for a sweep."""
    return bool(args.multirun) or "hydra.mode=MULTIRUN" in args.overrides


def _explain(error: Exception, program: Program, args: Namespace, conf: Path | str) -> str:
    config_name, groups = args.config_name or program.name, _groups(_folder(conf))
    try:
        with initialized_hydra(program.name, conf, args.config_dir):
            allowed = _with_new_keys_allowed(args.overrides)
            program.check(compose(config_name, allowed), partial(composed_key_locations, config_name, allowed))
    except ConfigError as faults:
        return str(faults.with_group_suggestions(groups))
    except Exception:
        pass  # composition fails entirely: Hydra's own message says why
    return explain_refused(error, args.overrides) or _hydra_message(error, program, groups)


def _groups_of_training(conf: Path, config_name: str) -> set[str]:
    """Return the groups of settings that ``sample.py`` or ``evaluate.py`` does not use."""
    defaults = yaml.safe_load((conf / f"{config_name}.yaml").read_text(encoding="utf-8"))["defaults"]
    return set(_groups(conf)) - {group for default in defaults if isinstance(default, dict) for group in default}


def _groups(conf: Path) -> list[str]:
    """Return the top-level groups of settings that a command line can choose from."""
    return sorted(folder.name for folder in conf.iterdir() if folder.is_dir() and folder.name not in NO_GROUPS)


def _while_composing(error: Exception) -> bool:
    """Return whether Hydra raised the error while it composed the settings, before any job started."""
    return any(frame.f_code.co_name == "compose_config" for frame, _ in traceback.walk_tb(error.__traceback__))


def _hydra_message(error: Exception, program: Program, groups: Sequence[str]) -> str:
    if not str(error).strip():
        return f"Hydra rejects one of its own settings ({type(error).__name__}): check those that start with hydra."
    text = re.sub(r"\nConfig search path:.*", "", str(error).strip(), flags=re.DOTALL).rstrip()
    suggestion = None
    refused = re.match(r"Could not override '([\w.]+)'(?:\.\nTo append to your config use (.*))?", text)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        advice = install_hint(error.missing_cfg_file)
        if advice is not None:
            return advice
        group, _, name = error.missing_cfg_file.rpartition("/")
        suggestion = closest(name, [*(error.options or ()), *names_in(group)])
    elif refused:
        key, root = refused[1], program.root
        if key not in known_keys(root):
            text = f"{key}: unknown key"  # Hydra's advice, a + before it, would only allow it, to be refused later
            suggestion = closest(key, [*program.short_names, *groups], 0.75) or suggest_key(key, root)
            if key.startswith("hydra."):
                return f"{text}. {hydra_settings()}"
        elif refused[2]:
            text = f"{key} has no value in the chosen files: to give it one, type {refused[2]}"
    return f"{text}\nDid you mean {suggestion!r}?" if suggestion else text


def _with_new_keys_allowed(overrides: Sequence[str]) -> list[str]:
    """Return the overrides with ``++`` before each plain ``key=value`` whose key is not a group."""
    loader = GlobalHydra.instance().config_loader()
    return [
        f"++{override}" if override[0] not in "+~" and not loader.get_group_options(key) else override
        for override, key in zip(overrides, override_keys(overrides), strict=True)
    ]
