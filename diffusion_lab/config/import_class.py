"""Import the user's own class from the dotted path that stands in a ``type`` key."""

from __future__ import annotations

import sys
import traceback
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from diffusion_lab.config.faults import ConfigError, Fault, closest


def find_classes_in(config_dir: str | None) -> None:
    """Let classes be imported from the current folder, and from a folder of settings and the one around it.

    They are looked for last, so that nothing there hides a library.

    Args:
        config_dir: The folder given by ``--config-dir``.
    """
    folders = [Path.cwd()]
    if config_dir is not None:
        folders += [Path(config_dir).absolute(), Path(config_dir).absolute().parent]
    sys.path.extend(str(folder) for folder in folders if str(folder) not in sys.path)


def load_class(path: str, key: str) -> type[Any]:
    """The class that ``path`` (``my_lab.optim.Lion``) names.

    Only for paths from the command line and the user's own YAML: importing runs code, so a path found in a
    checkpoint must not come here. Raises ConfigError that names ``key`` where no class can be imported.
    """
    module, _, name = path.rpartition(".")
    imported = _import(module, path, key)
    found = getattr(imported, name, None)
    if found is None:
        classes = [known for known, value in vars(imported).items() if isinstance(value, type)]
        rule = f"must be a class that can be imported (module {module!r} has no {name})"
        raise ConfigError([Fault(key, rule, path, closest(name, classes))])
    if not isinstance(found, type):
        raise ConfigError([Fault(key, f"must be a class, not a {type(found).__name__}", path)])
    return found


def _import(module: str, path: str, key: str) -> ModuleType:
    try:
        return import_module(module)
    except Exception as error:  # the user's own code, in which anything may go wrong
        what = str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
        if isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]:
            what += ": it is looked for beside train.py, in the current folder, and beside --config-dir"
        rule = f"must be a class that can be imported ({what}{_place_of(error)})"
        raise ConfigError([Fault(key, rule, path)]) from error


def _place_of(error: Exception) -> str:
    """Where in the user's code, as `` at FILE:LINE``; nothing where no module was found, or the error tells itself."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    tells_itself = isinstance(error, SyntaxError) or "importlib" in last.filename
    return "" if tells_itself else f" at {last.filename}:{last.lineno}"
