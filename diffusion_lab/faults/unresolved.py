"""References of composed settings that cannot be resolved, as faults."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from diffusion_lab.faults import Fault


def resolved(node: Any, faults: list[Fault], key: str = "") -> Any:
    """Return a node as plain containers; values that cannot be resolved are omitted and added to ``faults``."""
    if not isinstance(node, DictConfig | ListConfig):
        return node
    values: dict[Any, Any] = {}
    for name in range(len(node)) if isinstance(node, ListConfig) else list(node):
        path = f"{key}[{name}]" if isinstance(node, ListConfig) else f"{key}.{name}".lstrip(".")
        try:
            values[name] = resolved(node[name], faults, path)
        except MissingMandatoryValue:
            faults.append(Fault(path, "required, but missing"))
        except OmegaConfBaseException as error:
            unresolved: Any = OmegaConf.to_container(node, resolve=False)
            reason = str(error).strip().splitlines()[0]
            faults.append(Fault(path, f"cannot be resolved ({reason})", unresolved[name]))
    return list(values.values()) if isinstance(node, ListConfig) else values
