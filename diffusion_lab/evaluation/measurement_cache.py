"""Measurements that are kept, so that the same command does not repeat them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusion_lab.atomic_files import atomic_write
from diffusion_lab.safe_files import read_json

FOLDER = "measurements"
FORMAT = 2
"""Of the measurements, and of how they are computed: another number, and none of earlier ones is taken."""


def measurement_key(parts: Mapping[str, Any]) -> str:
    """Return a name for a measurement from all that its numbers depend on."""
    return hashlib.sha256(json.dumps([FORMAT, parts], sort_keys=True).encode()).hexdigest()


def find_measurement(folder: Path, key: str) -> dict[str, Any] | None:
    """Return the measurement that was kept under a key; None where there is none, or it is damaged."""
    try:
        found = read_json(_file(folder, key))
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or found.get("key") != key or found.get("sha256") != _digest(found):
        return None
    return found


def store_measurement(folder: Path, key: str, content: Mapping[str, Any]) -> None:
    """Keep a measurement, whole or not at all.

    Args:
        folder: In which the folder of the measurements is made.
        key: Its name, as of ``measurement_key``.
        content: What is kept, as JSON holds it.
    """
    told = {**content, "key": key}
    file = _file(folder, key)
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file, durable=False) as partial:
        partial.write_text(json.dumps({**told, "sha256": _digest(told)}, indent=2) + "\n", encoding="utf-8")


def _file(folder: Path, key: str) -> Path:
    return folder / FOLDER / f"{key[:16]}.json"


def _digest(content: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in content.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
