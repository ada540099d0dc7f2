"""Start a Hydra application so that a mistyped override is explained as any other fault of the settings is."""

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

from diffusion_lab.command_line import setting
from diffusion_lab.config.completion import completion_script
from diffusion_lab.config.compose import SHORT_NAMES
from diffusion_lab.config.compose_evaluation import EVALUATE_SHORT_NAMES
from diffusion_lab.config.evaluate_schema import EvaluateConfig
from diffusion_lab.config.faults import ConfigError, closest
from diffusion_lab.config.import_class import find_classes_in
from diffusion_lab.config.key_locations import KeyLocations, composed_key_locations, override_keys
from diffusion_lab.config.launchers import check_launcher
from diffusion_lab.config.optional_packages import install_hint, names_in
from diffusion_lab.config.overrides import (
    check_separate_folders,
    check_sweep_not_empty,
    check_sweep_size,
    explain_syntax_error,
    refuse_excess,
)
from diffusion_lab.config.refused_overrides import HYDRA_SETTINGS, explain_refused, refuse_unread
from diffusion_lab.config.report import EXIT_CODE, run_and_report
from diffusion_lab.config.run_dir import check_hydra_folders
from diffusion_lab.config.schema import GenerateConfig, TrainConfig
from diffusion_lab.config.section import Section, home_expanded
from diffusion_lab.config.settings_reader import known_keys, suggest_key
from diffusion_lab.config.sweep_summary import sweep_summary
from diffusion_lab.messages import sentence

Check = Callable[[DictConfig, Callable[[], KeyLocations]], object]

PROGRAMS = ("train.py", "sample.py", "evaluate.py")
"""The commands that compose their settings from ``conf/``."""

ROOTS: dict[str, tuple[type[Section], tuple[str, ...]]] = {
    "train": (TrainConfig, ()),
    "sample": (GenerateConfig, SHORT_NAMES),
    "evaluate": (EvaluateConfig, EVALUATE_SHORT_NAMES),
}
"""The keys of each command's settings, and the short names at their root."""

NO_GROUPS = ("hydra", "standalone")
"""Folders of the settings from which the command line of a run chooses nothing."""

HYDRAS_FOLDERS = ("hydra.run.dir", "hydra.sweep.dir")
"""Settings of Hydra that are paths; those of the project are expanded when they are checked."""


def launch(application: Callable[[], None], check: Check, conf: Path, config_name: str) -> None:
    """Run what ``hydra.main`` decorated.

    Hydra refuses an override of a key that the composed tree lacks before any of our code runs. Then all is
    composed once more with that key let in, so that ``check`` finds it, suggests what may have been meant, and
    reports the other faults with it.

    Args:
        application: The decorated function.
        check: Raises ConfigError for a composed tree with faults, such as ``compose_train_config``.
        conf: Folder of the settings.
        config_name: The file in it that ``application`` starts from.
    """
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # raise what cannot be composed instead of exiting
    Hydra.get_mode = _mode  # type: ignore[method-assign, assignment]
    given = get_args_parser().parse_intermixed_args()
    sys.argv[1:] = map(with_home_expanded, _options_first(sys.argv[1:], given.overrides))
    given = get_args_parser().parse_args()
    run_and_report(lambda: refuse_excess(given.overrides))
    if given.shell_completion and given.overrides[:1] != ["query=bash"]:
        programs = [conf.parent / name for name in PROGRAMS]
        print(run_and_report(lambda: completion_script(given.overrides, programs)))
        return
    if config_name != "train" and given.config_name is None:
        groups = _groups_of_training(conf, config_name)
        run_and_report(lambda: refuse_unread(given.overrides, groups, f"{config_name}.py"))
    find_classes_in(given.config_dir)
    if not _only_shows(given):
        run_and_report(lambda: check_hydra_folders(given.overrides, _sweeps(given)))
        run_and_report(lambda: check_launcher(given.overrides))
    if _sweeps(given):
        run_and_report(lambda: check_sweep_size(given.overrides))
        run_and_report(lambda: check_separate_folders(given.overrides))
        run_and_report(lambda: check_sweep_not_empty(given.overrides, [conf, *_folder_of_user(given)]))
    try:
        with sweep_summary():
            application()
    except Exception as error:
        if not isinstance(error, CompactHydraException) and not _while_composing(error):
            raise
        explained = explain_syntax_error(given.overrides, conf) or _explained(
            error, check, conf, config_name, given.overrides
        )
        print(f"Error: {sentence(explained)}", file=sys.stderr)
        raise SystemExit(EXIT_CODE) from error


def _options_first(arguments: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """Move options before the settings: Hydra's parser ends at settings on both sides of an option.

    >>> _options_first(["seed=1", "--cfg", "job", "device=cpu"], ["seed=1", "device=cpu"])
    ['--cfg', 'job', 'seed=1', 'device=cpu']
    """
    options = list(arguments)
    for override in overrides:
        options.remove(override)
    return [*options, *overrides]


def _folder_of_user(given: Namespace) -> list[Path]:
    """The folder of ``--config-dir``, where there is one."""
    return [] if given.config_dir is None else [Path(given.config_dir)]


def with_home_expanded(argument: str) -> str:
    """Return an argument with ``~`` expanded where it names a folder of Hydra's, which makes it before any check.

    >>> with_home_expanded("training.epochs=3")
    'training.epochs=3'
    """
    key, _, value = argument.partition("=")
    if key not in HYDRAS_FOLDERS or not value.startswith("~"):
        return argument
    return setting(key, str(home_expanded(value)))


def _only_shows(given: Namespace) -> bool:
    """Whether the command line asks Hydra to print something instead of running the application."""
    return bool(given.help or given.hydra_help or given.cfg or given.info or given.shell_completion)


def _sweeps(given: Namespace) -> bool:
    """Whether the command line asks for a sweep."""
    return bool(given.multirun) or "hydra.mode=MULTIRUN" in given.overrides


_mode_of_composed = Hydra.get_mode


def _mode(hydra: Hydra, config_name: str | None, overrides: list[str]) -> RunMode | None:
    """What Hydra finds by composing the whole tree a first time, a fifth of the time to the first message.

    Only a recipe or an override can set ``hydra.mode``; without one, ``-m`` or its absence says it (None).
    """
    may_set_it = any(re.match(r"[+~]*(experiment|hydra)\b", override) for override in overrides)
    mode: RunMode | None = _mode_of_composed(hydra, config_name, overrides) if may_set_it else None
    return mode


def _explained(error: Exception, check: Check, conf: Path, config_name: str, overrides: Sequence[str]) -> str:
    try:
        with initialize_config_dir(str(conf), version_base="1.3"):
            let_in = _with_keys_let_in(overrides)
            check(compose(config_name, let_in), partial(composed_key_locations, config_name, let_in))
    except ConfigError as faults:
        return str(faults.with_group_suggestions(_groups(conf)))
    except Exception:
        pass  # nothing can be composed at all: Hydra's own words say why
    return explain_refused(error, overrides) or _in_hydras_words(error, conf, config_name)


def _groups_of_training(conf: Path, config_name: str) -> set[str]:
    """The groups of settings that ``sample.py`` or ``evaluate.py`` does not choose from."""
    defaults = yaml.safe_load((conf / f"{config_name}.yaml").read_text(encoding="utf-8"))["defaults"]
    return set(_groups(conf)) - {group for default in defaults if isinstance(default, dict) for group in default}


def _groups(conf: Path) -> list[str]:
    """The groups of settings at the root that a command line chooses from."""
    return sorted(folder.name for folder in conf.iterdir() if folder.is_dir() and folder.name not in NO_GROUPS)


def _while_composing(error: Exception) -> bool:
    """Whether Hydra raised it while it put the settings together, before any job began."""
    return any(frame.f_code.co_name == "compose_config" for frame, _ in traceback.walk_tb(error.__traceback__))


def _in_hydras_words(error: Exception, conf: Path, config_name: str) -> str:
    if not str(error).strip():
        return f"Hydra refuses a setting of its own ({type(error).__name__}): look at those that begin with hydra."
    text = re.sub(r"\nConfig search path:.*", "", str(error).strip(), flags=re.DOTALL).rstrip()
    meant = None
    refused = re.match(r"Could not override '([\w.]+)'(?:\.\nTo append to your config use (.*))?", text)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        advice = install_hint(error.missing_cfg_file)
        if advice is not None:
            return advice
        group, _, name = error.missing_cfg_file.rpartition("/")
        meant = closest(name, [*(error.options or ()), *names_in(group)])
    elif refused:
        root, short_names = ROOTS[config_name]
        if refused[1] not in known_keys(root):
            text = f"{refused[1]}: unknown key"  # Hydra's advice, a + before it, would only let it in to be refused
            meant = closest(refused[1], [*short_names, *_groups(conf)], 0.75) or suggest_key(refused[1], root)
            if refused[1].startswith("hydra."):
                return f"{text}. {HYDRA_SETTINGS}"
        elif refused[2]:
            text = f"{refused[1]} has no value in the chosen files: to give it one, type {refused[2]}"
    return f"{text}\nDid you mean {meant!r}?" if meant else text


def _with_keys_let_in(overrides: Sequence[str]) -> list[str]:
    """The overrides with ``++`` before each plain ``key=value`` whose key is no group of files."""
    loader = GlobalHydra.instance().config_loader()
    return [
        f"++{override}" if override[0] not in "+~" and not loader.get_group_options(key) else override
        for override, key in zip(overrides, override_keys(overrides), strict=True)
    ]
