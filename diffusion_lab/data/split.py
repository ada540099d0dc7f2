"""Splitting off validation images if there is no validation folder."""

from __future__ import annotations

import numpy as np

from diffusion_lab.data.source import IndexArray


def balanced_split(labels: IndexArray, fraction: float, seed: int) -> tuple[IndexArray, IndexArray]:
    """Split off the same share of each class: returns sorted (training, validation) indices.

    A class of two or more images contributes at least one to both; a class of one image is for training.
    The same labels, fraction and seed give the same split.

    Raises:
        ValueError: the fraction is not between 0 and 1, or no class has two images.
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
            f"data.validation_split.fraction = {fraction} leaves nothing to hold out: no class has two images "
            "(set data.paths.val, or training.validation.enabled=false)"
        )
    return np.flatnonzero(~held_out), validation


def _classes(labels: IndexArray) -> list[IndexArray]:
    """Return the images of each nonempty class, in order. One stable sort is faster than a search per class."""
    order = np.argsort(labels.astype(np.int16) if labels.size and labels.max() < 2**15 else labels, kind="stable")
    ends = np.cumsum(np.bincount(labels))
    return [members for members in np.split(order, ends[:-1]) if members.size]
