"""Metadata of a checkpoint, such as its settings and class names, checked before anything relies on them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, ValidationError

from diffusion_lab.checkpoint.damage import damaged_error
from diffusion_lab.checkpoint.pickled import check_expansion
from diffusion_lab.faults import faults_of, shown
from diffusion_lab.typed_settings.section import Section

FORMAT = 2
"""Version of the ``diffusion_lab`` part of a checkpoint.

1: the input of predictions other than edm was not scaled, and loss weights differed with some penalties.
"""

FORMATS_READ = (1, FORMAT)

KEY = "diffusion_lab"

MAX_VALUES = 200_000
"""Maximum values in it, shared ones counted each time; the names of 20,000 classes and all settings are far fewer."""

MAX_INT = 2**256
"""Bound on integers: those of random generators have 128 bits; thousands of digits cannot even be printed."""

PLAIN = (str, float, bool, type(None))


class Metadata(Section):
    """Types of the keys that are read; other keys are allowed."""

    model_config = ConfigDict(extra="allow")

    config: dict[str, Any]
    class_names: list[str]
    step: int | None = Field(ge=0)
    epochs_done: int | None = Field(default=None, ge=0)
    seed: int | None = Field(default=None, ge=0)
    config_hash: str | None = None
    data_fingerprint: str | None = None
    wandb_id: str | None = None
    environment: dict[str, Any] = Field(default_factory=dict)
    stopped: bool = False
    averaged: bool = False
    ema_decay: float | None = None


def check_metadata(metadata: Mapping[str, Any], path: Path) -> None:
    """Check the metadata of a checkpoint.

    Args:
        metadata: Its ``diffusion_lab`` part.
        path: The checkpoint, for messages.

    Raises:
        ValueError: It has another version, lacks a key, or holds a value of another type.
    """
    try:
        check_expansion(metadata, MAX_VALUES)
        _check_plain(metadata)
    except ValueError as error:
        raise damaged_error(path, f"is a damaged checkpoint: of its {KEY} part, {error}") from error
    if metadata.get("format") not in FORMATS_READ:
        raise ValueError(
            f"{path} has format {shown(metadata.get('format'))}, this version reads {FORMAT}: update diffusion_lab"
        )
    lacking = [key for key in ("config", "class_names", "step") if key not in metadata]
    if lacking:
        raise damaged_error(path, f"is a damaged checkpoint: its {KEY} part lacks {', '.join(lacking)}")
    if not isinstance(metadata["config"], dict) or not isinstance(metadata["config"].get("model"), dict):
        raise damaged_error(path, "is a damaged checkpoint: its settings lack the model section")
    try:
        Metadata.model_validate({**metadata, "class_names": _as_list(metadata["class_names"])})
    except ValidationError as error:
        faults = faults_of(error.errors(), metadata, lambda key: None, KEY)
        raise damaged_error(path, f"is a damaged checkpoint: {'; '.join(map(str, faults))}") from error


def _as_list(names: object) -> object:
    return list(names) if isinstance(names, tuple) else names


def _check_plain(root: object) -> None:
    """Raise ValueError unless all values are strings, numbers, lists, or dicts with strings as keys."""
    waiting, seen = [root], set[int]()
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict | list | tuple):
            if id(value) in seen:
                continue
            seen.add(id(value))
            if isinstance(value, dict):
                foreign = next((key for key in value if not isinstance(key, str)), None)
                if foreign is not None:
                    raise ValueError(f"a key is of type {type(foreign).__name__}, not text")
                waiting.extend(value.values())
            else:
                waiting.extend(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            if abs(value) >= MAX_INT:
                raise ValueError(f"an integer has {value.bit_length()} bits")
        elif not isinstance(value, PLAIN):
            raise ValueError(f"a value is of type {type(value).__name__}")
