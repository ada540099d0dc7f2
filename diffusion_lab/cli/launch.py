"""Start of a Hydra application, with mistyped overrides explained like other faults of the settings."""

from __future__ import annotations

import os
import re
import sys
import traceback
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import CompactHydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig

from diffusion_lab.cli.completion import completion_script
from diffusion_lab.cli.compose import SHORT_NAMES
from diffusion_lab.cli.compose_evaluation import EVALUATE_SHORT_NAMES
from diffusion_lab.cli.evaluate_schema import EvaluateConfig
from diffusion_lab.cli.key_locations import KeyLocations, composed_key_locations, override_keys
from diffusion_lab.cli.optional_packages import install_hint, names_in
from diffusion_lab.cli.overrides import (
    check_separate_folders,
    check_sweep_not_empty,
    check_sweep_size,
    explain_syntax_error,
    refuse_excess,
)
from diffusion_lab.cli.refused_overrides import HYDRA_SETTINGS, explain_refused, refuse_unread
from diffusion_lab.cli.report import run_and_report
from diffusion_lab.cli.run_dir import check_hydra_folders
from diffusion_lab.config.schema import GenerateConfig, TrainConfig, suggest_key
from diffusion_lab.console.command_line import setting
from diffusion_lab.console.messages import sentence
from diffusion_lab.faults import ConfigError, closest
from diffusion_lab.runtime.exit_codes import EXIT_CODE
from diffusion_lab.runtime.import_class import find_classes_in
from diffusion_lab.sweeps.launchers import check_launcher
from diffusion_lab.sweeps.summary import sweep_summary
from diffusion_lab.typed_settings.section import Section, home_expanded
from diffusion_lab.typed_settings.settings_reader import known_keys

Check = Callable[[DictConfig, Callable[[], KeyLocations]], object]

PROGRAMS = ("train.py", "sample.py", "evaluate.py")
"""Commands that compose their settings from ``conf/``."""

ROOTS: dict[str, tuple[type[Section], tuple[str, ...]]] = {
    "train": (TrainConfig, ()),
    "sample": (GenerateConfig, SHORT_NAMES),
    "evaluate": (EvaluateConfig, EVALUATE_SHORT_NAMES),
}
"""Schema of each command's settings, and the short names at the top level."""

NO_GROUPS = ("hydra", "standalone")
"""Folders of the settings that are not groups of the command line."""

HYDRA_FOLDERS = ("hydra.run.dir", "hydra.sweep.dir")
"""Settings of Hydra that are paths; paths of the project are expanded during validation."""


def launch(application: Callable[[], None], check: Check, conf: Path, config_name: str) -> None:
    """Run a function decorated by ``hydra.main``.

    Hydra rejects an override of a key that the composed tree lacks before any of our code runs. The settings are then
    composed once more with that key allowed, so that ``check`` finds it, suggests what was probably intended, and
    reports the other faults as well.

    Args:
        application: The decorated function.
        check: Function that raises ConfigError for a composed tree with faults, such as ``compose_train_config``.
        conf: Folder of the settings.
        config_name: Main file in it, from which ``application`` composes.
    """
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # raise errors of composition instead of exiting
    Hydra.get_mode = _mode  # type: ignore[method-assign, assignment]
    args = get_args_parser().parse_intermixed_args()
    sys.argv[1:] = map(expand_home_in, _options_first(sys.argv[1:], args.overrides))
    args = get_args_parser().parse_args()
    run_and_report(lambda: refuse_excess(args.overrides))
    if args.shell_completion and args.overrides[:1] != ["query=bash"]:
        programs = [conf.parent / name for name in PROGRAMS]
        print(run_and_report(lambda: completion_script(args.overrides, programs)))
        return
    if config_name != "train" and args.config_name is None:
        groups = _groups_of_training(conf, config_name)
        run_and_report(lambda: refuse_unread(args.overrides, groups, f"{config_name}.py"))
    find_classes_in(args.config_dir)
    if not _only_shows(args):
        run_and_report(lambda: check_hydra_folders(args.overrides, _sweeps(args)))
        run_and_report(lambda: check_launcher(args.overrides))
    if _sweeps(args):
        run_and_report(lambda: check_sweep_size(args.overrides))
        run_and_report(lambda: check_separate_folders(args.overrides))
        run_and_report(lambda: check_sweep_not_empty(args.overrides, [conf, *_user_folders(args)]))
    try:
        with sweep_summary():
            application()
    except Exception as error:
        if not isinstance(error, CompactHydraException) and not _while_composing(error):
            raise
        message = explain_syntax_error(args.overrides, conf) or _explain(
            error, check, conf, config_name, args.overrides
        )
        print(f"Error: {sentence(message)}", file=sys.stderr)
        raise SystemExit(EXIT_CODE) from error


def _options_first(arguments: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """Move options before the settings: Hydra's parser stops at settings on both sides of an option.

    >>> _options_first(["seed=1", "--cfg", "job", "device=cpu"], ["seed=1", "device=cpu"])
    ['--cfg', 'job', 'seed=1', 'device=cpu']
    """
    options = list(arguments)
    for override in overrides:
        options.remove(override)
    return [*options, *overrides]


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


_original_get_mode = Hydra.get_mode


def _mode(hydra: Hydra, config_name: str | None, overrides: list[str]) -> RunMode | None:
    """Replace ``Hydra.get_mode``, which composes the whole tree an extra time, a fifth of the start-up time.

    Only a recipe or an override can set ``hydra.mode``; without one, the mode follows from ``-m`` (None).
    """
    may_set_it = any(re.match(r"[+~]*(experiment|hydra)\b", override) for override in overrides)
    mode: RunMode | None = _original_get_mode(hydra, config_name, overrides) if may_set_it else None
    return mode


def _explain(error: Exception, check: Check, conf: Path, config_name: str, overrides: Sequence[str]) -> str:
    try:
        with initialize_config_dir(str(conf), version_base="1.3"):
            allowed = _with_new_keys_allowed(overrides)
            check(compose(config_name, allowed), partial(composed_key_locations, config_name, allowed))
    except ConfigError as faults:
        return str(faults.with_group_suggestions(_groups(conf)))
    except Exception:
        pass  # composition fails entirely: Hydra's own message says why
    return explain_refused(error, overrides) or _hydra_message(error, conf, config_name)


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


def _hydra_message(error: Exception, conf: Path, config_name: str) -> str:
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
        root, short_names = ROOTS[config_name]
        if refused[1] not in known_keys(root):
            text = (
                f"{refused[1]}: unknown key"  # Hydra's advice, a + before it, would only allow it, to be refused later
            )
            suggestion = closest(refused[1], [*short_names, *_groups(conf)], 0.75) or suggest_key(refused[1], root)
            if refused[1].startswith("hydra."):
                return f"{text}. {HYDRA_SETTINGS}"
        elif refused[2]:
            text = f"{refused[1]} has no value in the chosen files: to give it one, type {refused[2]}"
    return f"{text}\nDid you mean {suggestion!r}?" if suggestion else text


def _with_new_keys_allowed(overrides: Sequence[str]) -> list[str]:
    """Return the overrides with ``++`` before each plain ``key=value`` whose key is not a group."""
    loader = GlobalHydra.instance().config_loader()
    return [
        f"++{override}" if override[0] not in "+~" and not loader.get_group_options(key) else override
        for override, key in zip(overrides, override_keys(overrides), strict=True)
    ]
