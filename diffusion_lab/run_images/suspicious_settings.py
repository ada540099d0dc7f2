"""Warnings about valid but probably unintended settings, found from the images of a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from diffusion_lab.data.source import ImageSource


def validation_warnings(
    train: ImageSource, val: ImageSource, train_path: Path | None, val_path: Path | None
) -> Iterator[str]:
    """Warn if validation images are training images as well: the same folder, or equal files by their hashes.

    Args:
        train: Training images.
        val: Validation images.
        train_path: Folder of the training images.
        val_path: Folder of the validation images; None if they were split off.
    """
    relation = _relation(val_path, train_path) if val_path and train_path else None
    trained, validated = train.hashes(), val.hashes()
    shared = 0
    if trained is not None and validated is not None:
        # 64 bits of a hash suffice to distinguish files, and are fast to sort
        known, tested = (np.ascontiguousarray(hashes[:, :8]).view(np.uint64).ravel() for hashes in (trained, validated))
        shared = int(np.isin(tested, known).sum())
    if relation is None and not shared:
        return
    where = f"data.paths.val {str(val_path)!r} {relation} data.paths.train {str(train_path)!r}: " if relation else ""
    cause = "" if val_path else "; the folder holds files with the same content, of which some were split off"
    yield (
        f"{where}{shared} of {len(val)} validation images are training images as well, so that val/loss says little "
        f"about new images{cause}"
    )


def _relation(val: Path, train: Path) -> str | None:
    """Return the relation of one folder to another, with links resolved; None if they are separate."""
    inner, outer = val.resolve(), train.resolve()
    if inner == outer:
        return "is"
    if outer in inner.parents:
        return "lies in"
    return "holds" if inner in outer.parents else None
