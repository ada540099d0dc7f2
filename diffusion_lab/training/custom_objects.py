"""Objects of the classes that the settings name: callbacks, loggers, a profiler."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger

from diffusion_lab.runtime.import_class import load_class
from diffusion_lab.training.callbacks.order import ORDER
from diffusion_lab.typed_settings.targets import is_target, split_target

Entry = str | Mapping[str, Any]
"""Dotted path, or mapping with ``_target_`` and arguments."""


def create_object(entry: Entry, key: str, **filled: Any) -> Any:
    """Create the object that an entry describes; arguments that describe objects are created first.

    Args:
        entry: Entry of the user's own settings, never of a checkpoint.
        key: Its key, for messages.
        filled: Arguments to pass if the entry does not have them and the class accepts them.

    Raises:
        ValueError: The class cannot be imported, or rejects the arguments.
    """
    path, given = split_target(entry)
    cls = load_class(path, key)
    accepted = inspect.signature(cls).parameters if filled else {}
    arguments = {name: value for name, value in filled.items() if name in accepted}
    arguments |= {name: _argument(value, f"{key}.{name}") for name, value in given.items()}
    try:
        return cls(**arguments)
    except Exception as error:  # custom code may raise anything
        raise ValueError(f"{key} cannot be created: {path} raised {type(error).__name__}: {error}") from error


def _argument(value: Any, key: str) -> Any:
    if is_target(value):
        return create_object(value, key)
    if isinstance(value, list):
        return [_argument(each, f"{key}[{index}]") for index, each in enumerate(value)]
    return value


def create_callbacks_of_settings(entries: tuple[Entry, ...]) -> list[Callback]:
    """Create the callbacks of ``training.callbacks``.

    Raises:
        ValueError: One cannot be created, or two would have the same state in checkpoints.
    """
    callbacks: list[Callback] = []
    keys: dict[str, str] = {}
    for index, entry in enumerate(entries):
        key = f"training.callbacks[{index}]"
        callback = create_object(entry, key)
        if not isinstance(callback, Callback):
            raise ValueError(f"{key} must be a class derived from lightning.pytorch.Callback, got {entry}")
        if type(callback) in ORDER and type(callback) is not Callback:
            raise ValueError(f"{key} must not be a callback that runs have anyway, got {entry}")
        callbacks.append(callback)
        if type(callback).state_dict is not Callback.state_dict:
            if callback.state_key in keys:
                raise ValueError(
                    f"{key} must have another state_key than {keys[callback.state_key]}, {callback.state_key}, since "
                    "checkpoints hold the state of each callback by this key"
                )
            keys[callback.state_key] = key
    return callbacks


BUILT_IN_LOGGERS = ("wandb", "tensorboard")


def create_loggers_of_settings(entries: tuple[Entry, ...], folder: Path) -> list[Logger]:
    """Create the loggers of ``logger.backends`` that are classes; those that have a ``save_dir`` get the folder.

    Raises:
        ValueError: One cannot be created.
    """
    loggers = []
    for index, entry in enumerate(entries):
        if entry not in BUILT_IN_LOGGERS:
            key = f"logger.backends[{index}]"
            logger = create_object(entry, key, save_dir=folder)
            if not isinstance(logger, Logger):
                raise ValueError(f"{key} must be a class derived from lightning.pytorch.loggers.Logger, got {entry}")
            loggers.append(logger)
    return loggers


def changed_arguments(then: Sequence[Entry], now: Sequence[Entry]) -> list[dict[str, Any]]:
    """Return, for each entry, the arguments that differ from those of the same class in earlier entries.

    Args:
        then: Entries of a checkpoint; nothing is imported because of them.
        now: Entries of the settings. An argument that only the earlier entry has gets the default of the class.
    """
    earlier: dict[str, list[dict[str, Any]]] = {}
    for entry in then:
        path, arguments = split_target(entry)
        earlier.setdefault(path, []).append(arguments)
    changes: list[dict[str, Any]] = []
    for index, entry in enumerate(now):
        path, arguments = split_target(entry)
        same_class = earlier.get(path)
        before = same_class.pop(0) if same_class else arguments
        parameters = inspect.signature(load_class(path, f"training.callbacks[{index}]")).parameters
        defaults = {name: parameters[name].default for name in before.keys() - arguments.keys() & parameters.keys()}
        values = defaults | arguments
        changes.append({name: value for name, value in values.items() if before.get(name, ABSENT) != value})
    return changes


ABSENT = object()
