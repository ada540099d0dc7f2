"""Import the user's own class from the dotted path that stands in a ``type`` key."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from diffusion_lab.config.faults import ConfigError, Fault


def load_class(path: str, key: str) -> type[Any]:
    """The class that ``path`` (``my_lab.optim.Lion``) names.

    Only for paths from the command line and the user's own YAML: importing runs code, so a path found in a
    checkpoint must not come here. Raises ConfigError that names ``key`` where no class can be imported.
    """
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError([Fault(key, f"must be a class that can be imported ({error})", path)]) from error
    if not isinstance(found, type):
        raise ConfigError([Fault(key, f"must be a class, not a {type(found).__name__}", path)])
    return found
