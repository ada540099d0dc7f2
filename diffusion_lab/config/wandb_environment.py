"""W&B's own environment variables, which hold where nothing else was asked for."""

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
"""Keys of the section ``logger`` and the variables they are taken from."""

_FORMER_MODES = {"dryrun": "offline", "run": "online"}
_TRUE = ("1", "true", "yes", "on")


def from_environment(key: str, environ: Mapping[str, str] = os.environ) -> str | None:
    """Return what the environment says of a key of the section ``logger``, None where it says nothing.

    >>> from_environment("mode", {"WANDB_DISABLED": "true"}), from_environment("project", {"WANDB_PROJECT": ""})
    ('disabled', None)
    """
    if key == "mode" and environ.get("WANDB_DISABLED", "").strip().lower() in _TRUE:
        return "disabled"
    value = environ.get(VARIABLES[key], "").strip()
    return (_FORMER_MODES.get(value, value) if key == "mode" else value) or None
