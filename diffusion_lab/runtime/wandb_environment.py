"""W&B's environment variables, which apply where a setting is not given."""

from __future__ import annotations

import os
from collections.abc import Mapping

VARIABLES = {
    "mode": "WANDB_MODE",
    "project": "WANDB_PROJECT",
    "entity": "WANDB_ENTITY",
    "group": "WANDB_RUN_GROUP",
    "name": "WANDB_NAME",
    "dir": "WANDB_DIR",
}
"""Keys of the section ``logger`` and their variables."""

DISABLED = "WANDB_DISABLED"
_FORMER_MODES = {"dryrun": "offline", "run": "online"}
_TRUE = ("1", "true", "yes", "on")


def from_environment(key: str, environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the value of the environment for a key of the section ``logger``, or None.

    >>> from_environment("mode", {"WANDB_DISABLED": "true"}), from_environment("project", {"WANDB_PROJECT": ""})
    ('disabled', None)
    """
    name = variable_of(key, environ)
    if name is None:
        return None
    value = environ[name].strip()
    if name == DISABLED:
        return "disabled"
    return _FORMER_MODES.get(value, value) if key == "mode" else value


def all_from_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the keys of the section ``logger`` that the environment gives, with their values."""
    values = {key: from_environment(key, environ) for key in VARIABLES}
    return {key: value for key, value in values.items() if value is not None}


def variable_of(key: str, environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the environment variable that sets a key of the section ``logger``, or None.

    >>> variable_of("mode", {"WANDB_DISABLED": "true", "WANDB_MODE": "online"})
    'WANDB_DISABLED'
    """
    if key == "mode" and environ.get(DISABLED, "").strip().lower() in _TRUE:
        return DISABLED
    return VARIABLES[key] if environ.get(VARIABLES[key], "").strip() else None
