"""Which images are held out for validation where the user gave no folder of their own."""

from __future__ import annotations

import numpy as np

from diffusion_lab.data.source import IndexArray


def balanced_split(labels: IndexArray, fraction: float, seed: int) -> tuple[IndexArray, IndexArray]:
    """Divide images so that each class gives the same share: returns (training, validation) indices, sorted.

    A class of two or more images gives at least one and keeps at least one; a class of one image keeps it.
    The same labels, fraction and seed give the same split.

    Raises:
        ValueError: the fraction is not between 0 and 1, or no class has an image to spare.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"data.validation_split.fraction must lie between 0 and 1, both excluded, got {fraction}")
    rng = np.random.default_rng(seed)
    held_out = np.zeros(len(labels), dtype=bool)
    for members in _classes(labels):
        share = int(np.floor(fraction * len(members) + 0.5))
        held_out[rng.permutation(members)[: min(max(share, 1), len(members) - 1)]] = True
    validation = np.flatnonzero(held_out)
    if not validation.size:
        raise ValueError(
            f"data.validation_split.fraction = {fraction} finds nothing to hold out: no class has two images "
            "(set data.paths.val, or training.validation.enabled=false)"
        )
    return np.flatnonzero(~held_out), validation


def _classes(labels: IndexArray) -> list[IndexArray]:
    """The images of each class that has any, in order. One stable sort: a search for each class is slow with many."""
    order = np.argsort(labels.astype(np.int16) if labels.size and labels.max() < 2**15 else labels, kind="stable")
    ends = np.cumsum(np.bincount(labels))
    return [members for members in np.split(order, ends[:-1]) if members.size]
