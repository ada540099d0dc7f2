"""Output folders: V1 names each of them, V2 has one base folder with a subfolder for each."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from diffusion_lab.config.v1_format import FOLDERS


@dataclass(frozen=True)
class Places:
    """Where V2 puts what V1 put into folders of its own."""

    base_dir: str
    subdirs: dict[str, str] = field(default_factory=dict)
    """Subfolders by their V2 name; those that V1 did not name are left out."""
    moved: dict[str, str] = field(default_factory=dict)
    """The new place of each V1 folder that cannot stay where it is, by its V1 key."""


def places_of(folders: Mapping[str, str], default_base: str) -> Places:
    """The base folder and subfolders for the folders of a V1 file.

    All stay where they are if they share a parent folder, be it some levels up. If they share none, the first one stays
    and the others move beside it.

    Args:
        folders: The folders given, by their V1 key.
        default_base: Base folder where no folder can stay.

    >>> places_of({"training.checkpoint_dir": "runs/a/ckpt", "output.log_dir": "runs/a/logs"}, "outputs")
    Places(base_dir='runs/a', subdirs={'checkpoints': 'ckpt', 'logs': 'logs'}, moved={})
    >>> places_of({"training.checkpoint_dir": "runs/ckpt", "output.log_dir": "/var/log/a"}, "outputs").moved
    {'output.log_dir': 'runs/logs'}
    """
    paths = {key: Path(os.path.normpath(folders[key])) for key in FOLDERS if key in folders}
    named = {key: path for key, path in paths.items() if path.name not in ("", "..")}
    base = _shared_parent(path.parent for path in named.values()) if len(named) == len(paths) else None
    if base is None:
        base = next((path.parent for path in named.values()), Path(default_base))
    subdirs, moved = {}, {}
    for key, path in paths.items():
        if key in named and path.is_relative_to(base):
            subdirs[FOLDERS[key]] = path.relative_to(base).as_posix()
        else:
            moved[key] = (base / FOLDERS[key]).as_posix()
    return Places(base.as_posix(), subdirs, moved)


def _shared_parent(parents: Iterable[Path]) -> Path | None:
    """The folder that is a parent of all; not one that says nothing, such as ``/``, unless it is the parent of each."""
    different = set(parents)
    if len(different) == 1:
        return different.pop()
    try:
        shared = Path(os.path.commonpath(different))
    except ValueError:  # there is none, or some are absolute and some are not
        return None
    return None if shared.name in ("", "..") else shared
