"""Import of custom classes by the dotted path in a ``type`` key."""

from __future__ import annotations

import sys
import traceback
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from diffusion_lab.console.command_line import CHECKOUT
from diffusion_lab.faults import ConfigError, Fault, closest
from diffusion_lab.runtime import torchvision_import

NEXT_TO_SCRIPTS = "" if CHECKOUT is None else "next to train.py, "

_user_folders: list[str] = []


def find_classes_in(config_dir: str | None) -> None:
    """Make classes importable from the current folder, from a folder of settings and from its parent.

    A class that settings name is searched there first, so that no installed package of the same name hides it. All
    other imports search these folders last, so that nothing in them hides a library.

    Args:
        config_dir: The folder given by ``--config-dir``.
    """
    folders = [Path.cwd()]
    if config_dir is not None:
        folders += [Path(config_dir).absolute(), Path(config_dir).absolute().parent]
    _user_folders[:] = map(str, folders)
    sys.path.extend(folder for folder in _user_folders if folder not in sys.path)


def load_class(path: str, key: str) -> type[Any]:
    """Return the class at ``path``, such as ``my_lab.optim.Lion``.

    Only for paths from the command line and the user's own YAML: importing runs code, so a path from a checkpoint must
    never be passed here. Raises ConfigError that names ``key`` if no class can be imported.
    """
    module, _, name = path.rpartition(".")
    imported = _import(module, path, key)
    cls = getattr(imported, name, None)
    if cls is None:
        classes = [known for known, value in vars(imported).items() if isinstance(value, type)]
        rule = f"must be a class that can be imported (module {module!r} has no {name})"
        raise ConfigError([Fault(key, rule, path, closest(name, classes))])
    if not isinstance(cls, type):
        raise ConfigError([Fault(key, f"must be a class, not a {type(cls).__name__}", path)])
    return cls


def _import(module: str, path: str, key: str) -> ModuleType:
    torchvision_import.install()  # the class may need torchvision, or Lightning, which imports it
    try:
        _import_from_user_folders(module.partition(".")[0])
        return import_module(module)
    except Exception as error:  # user code may raise anything
        reason = str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
        if isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]:
            reason += f": it is searched {NEXT_TO_SCRIPTS}in the current folder, and next to --config-dir"
        rule = f"must be a class that can be imported ({reason}{_location_of(error)})"
        raise ConfigError([Fault(key, rule, path)]) from error


def _import_from_user_folders(name: str) -> None:
    """Import a top-level module or package of the user, if there is one, before ``sys.path`` is searched."""
    spec = None if name in sys.modules else PathFinder.find_spec(name, _user_folders)
    if spec is None or spec.loader is None or spec.origin is None:  # without __init__.py: regular packages come first
        return
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def _location_of(error: Exception) -> str:
    """Return the location in user code, as `` at FILE:LINE``; empty if no module was found or the error contains it."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    is_known = isinstance(error, SyntaxError) or "importlib" in last.filename
    return "" if is_known else f" at {last.filename}:{last.lineno}"
