"""Migration of output folders: separate in V1, subfolders of one base folder in V2."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from diffusion_lab.v1.format import FOLDERS


@dataclass(frozen=True)
class OutputFolders:
    """V2 output folders for the separate folders of V1."""

    base_dir: str
    subdirs: dict[str, str] = field(default_factory=dict)
    """Subfolders by their V2 name; those that V1 did not set are omitted."""
    moved: dict[str, str] = field(default_factory=dict)
    """New path of each V1 folder that must move, by its V1 key."""


def output_folders(folders: Mapping[str, str], default_base: str) -> OutputFolders:
    """Return the base folder and subfolders for the folders of a V1 file.

    All keep their paths if they share an ancestor folder. Otherwise the first one stays and the others move next to it.

    Args:
        folders: Folders by their V1 key.
        default_base: Base folder if no folder can keep its path.

    >>> output_folders({"training.checkpoint_dir": "runs/a/ckpt", "output.log_dir": "runs/a/logs"}, "outputs")
    OutputFolders(base_dir='runs/a', subdirs={'checkpoints': 'ckpt', 'logs': 'logs'}, moved={})
    >>> output_folders({"training.checkpoint_dir": "runs/ckpt", "output.log_dir": "/var/log/a"}, "outputs").moved
    {'output.log_dir': 'runs/logs'}
    """
    paths = {key: Path(os.path.normpath(folders[key])) for key in FOLDERS if key in folders}
    named = {key: path for key, path in paths.items() if path.name not in ("", "..")}
    base = _shared_parent(path.parent for path in named.values()) if len(named) == len(paths) else None
    if base is None:
        base = next((path.parent for path in named.values()), Path(default_base))
    subdirs, moved = {}, {}
    for key, path in paths.items():
        inside = base in path.parents and path.relative_to(base)
        if inside and ".." not in inside.parts:
            subdirs[FOLDERS[key]] = inside.as_posix()
        else:
            moved[key] = (base / FOLDERS[key]).as_posix()
    return OutputFolders(base.as_posix(), subdirs, moved)


def _shared_parent(parents: Iterable[Path]) -> Path | None:
    """Return the common ancestor of all; not a trivial one such as ``/``, unless it is the direct parent of each."""
    different = set(parents)
    if len(different) == 1:
        return different.pop()
    try:
        shared = Path(os.path.commonpath(different))
    except ValueError:  # no common path, or a mix of absolute and relative paths
        return None
    return None if shared.name in ("", "..") else shared
