"""Stored measurements, so that the same command does not repeat them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusion_lab.files.reading import read_json
from diffusion_lab.files.writing import atomic_write

FOLDER = "measurements"
FORMAT = 2
"""Version of the files and of the computation; measurements of other versions are not used."""


def measurement_key(parts: Mapping[str, Any]) -> str:
    """Return the key of a measurement: a hash of everything that its values depend on."""
    return hashlib.sha256(json.dumps([FORMAT, parts], sort_keys=True).encode()).hexdigest()


def find_measurement(folder: Path, key: str) -> dict[str, Any] | None:
    """Return the measurement stored under a key; None if there is none, or it is damaged."""
    try:
        content = read_json(_file(folder, key))
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or content.get("key") != key or content.get("sha256") != _digest(content):
        return None
    return content


def store_measurement(folder: Path, key: str, content: Mapping[str, Any]) -> None:
    """Store a measurement atomically.

    Args:
        folder: Parent folder of the folder of measurements.
        key: Key of the measurement, from ``measurement_key``.
        content: Content to store, as JSON values.
    """
    entry = {**content, "key": key}
    file = _file(folder, key)
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file, durable=False) as partial:
        partial.write_text(json.dumps({**entry, "sha256": _digest(entry)}, indent=2) + "\n", encoding="utf-8")


def _file(folder: Path, key: str) -> Path:
    return folder / FOLDER / f"{key[:16]}.json"


def _digest(content: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in content.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
