"""Images that a report samples from a checkpoint, kept in the run folder for the next report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusion_lab.files.reading import read_json
from diffusion_lab.reports.records import Picture

FOLDER = "report"
"""Subfolder of the run folder."""

INDEX = "sampled.json"
"""What the images show and from which checkpoint they are."""


def sampled_pictures(run_folder: Path, checkpoint_sha256: str | None) -> tuple[list[Picture], str | None]:
    """Return the images that an earlier report sampled, and of what; none if their index is missing or damaged.

    Args:
        run_folder: The run folder.
        checkpoint_sha256: SHA-256 of its best checkpoint, None if unknown; images of another one are out of date.
    """
    folder = run_folder / FOLDER
    index = read_index(folder)
    if not index or index["checkpoint_sha256"] != checkpoint_sha256:
        return [], None
    pictures = [
        Picture(folder / entry["file"], entry["caption"])
        for entry in index["pictures"]
        if (folder / entry["file"]).is_file()
    ]
    return pictures, _source(index)


def _source(index: Mapping[str, Any]) -> str | None:
    """Return what the images were sampled from, in words; None if an older version did not record it."""
    checkpoint, weights = index.get("checkpoint"), index.get("weights")
    if not isinstance(checkpoint, str):
        return None
    kind = {"ema": "averaged weights", "raw": "weights without averaging"}.get(str(weights), "weights")
    return f"Sampled from the {kind} of {checkpoint}."


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


def index_text(checkpoint: Path, checkpoint_sha256: str, weights: str | None, pictures: list[dict[str, str]]) -> str:
    """Return the content of the index.

    Args:
        checkpoint: The checkpoint.
        checkpoint_sha256: Its SHA-256.
        weights: Which of its weights were used: ``ema`` or ``raw``; None if unknown.
        pictures: File name and caption of each image.
    """
    origin = {"checkpoint": checkpoint.resolve().name, "checkpoint_sha256": checkpoint_sha256, "weights": weights}
    return json.dumps({**origin, "pictures": pictures}, indent=2) + "\n"


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict):
        return False
    file, caption = entry.get("file"), entry.get("caption")
    return isinstance(file, str) and isinstance(caption, str) and Path(file).name == file
