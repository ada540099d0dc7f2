"""Images that a report samples from a checkpoint, kept in the run folder for the next report."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from diffusion_lab.files.reading import read_json
from diffusion_lab.reports.records import Picture

FOLDER = "report"
"""Subfolder of the run folder."""

INDEX = "sampled.json"
"""What the images show and from which checkpoint they are."""


def sampled_pictures(run_folder: Path, checkpoints: Iterable[str]) -> list[Picture]:
    """Return the images that an earlier report sampled; none if their index is missing or damaged.

    Args:
        run_folder: The run folder.
        checkpoints: SHA-256 of each checkpoint in it; images of another one are of an earlier run in this folder.
    """
    folder = run_folder / FOLDER
    index = read_index(folder)
    if not index or index["checkpoint_sha256"] not in checkpoints:
        return []
    return [
        Picture(folder / entry["file"], entry["caption"])
        for entry in index["pictures"]
        if (folder / entry["file"]).is_file()
    ]


def read_index(folder: Path) -> dict[str, Any]:
    """Return the index of the images in a folder; empty if it is missing or damaged."""
    try:
        index = read_json(folder / INDEX)
    except (OSError, ValueError):
        return {}
    if not isinstance(index, dict) or not isinstance(index.get("checkpoint_sha256"), str):
        return {}
    pictures = index.get("pictures")
    return index if isinstance(pictures, list) and all(map(_is_entry, pictures)) else {}


def index_text(checkpoint_sha256: str, pictures: list[dict[str, str]]) -> str:
    """Return the content of the index."""
    return json.dumps({"checkpoint_sha256": checkpoint_sha256, "pictures": pictures}, indent=2) + "\n"


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict):
        return False
    file, caption = entry.get("file"), entry.get("caption")
    return isinstance(file, str) and isinstance(caption, str) and Path(file).name == file
