"""Distances between many images without a matrix of all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from diffusion_lab.evaluation.metrics.arrays import Array, chunks, column_means, products

Indices = NDArray[np.int64]

ROWS, COLUMNS = 256, 4096
KEPT = 2**24
"""Numbers up to which all features are converted to float64 once (128 MiB), rather than for each block of rows."""

TIE = 1e-9
"""Relative difference of squared distances below which they count as equal. Features are float32, which is coarser, and
products of matrices round differently from machine to machine, which is finer."""

SAME = 1e-12
"""Squared distance, relative to the squared lengths, below which two images have the same features."""


def distance_blocks(first: Tensor, second: Tensor) -> Iterator[tuple[int, Array]]:
    """Yield squared Euclidean distances ``(256, M)``, with the number of the first row of each block.

    They come from products of matrices, which is many times faster than differences. Features are centred first,
    so that little is lost to rounding, and images with the same features are at exactly 0.

    Args:
        first: Features ``(N, D)``.
        second: Features ``(M, D)``.
    """
    centre = column_means(second)
    centred: Iterable[tuple[int, Array]] = _Centred(second, centre)
    if second.numel() <= KEPT:
        centred = list(centred)
    lengths = np.concatenate([np.square(columns).sum(axis=1) for _, columns in centred])
    for start, rows in chunks(first, ROWS):
        rows = rows - centre
        sums = np.square(rows).sum(axis=1)[:, None] + lengths
        block = np.empty((len(rows), len(second)))
        for column, columns in centred:
            block[:, column : column + len(columns)] = products(rows, columns)
        block *= -2
        block += sums
        block[block <= SAME * sums] = 0
        yield start, block


class _Centred:
    """Centred features in float64, converted again each time they are iterated over."""

    def __init__(self, features: Tensor, centre: Array) -> None:
        self.features, self.centre = features, centre

    def __iter__(self) -> Iterator[tuple[int, Array]]:
        return ((start, rows - self.centre) for start, rows in chunks(self.features, COLUMNS))


def squared_radii(features: Tensor, k: int) -> Array:
    """Return the squared distance of each image to its k-th nearest other image ``(N,)``, N greater than k."""
    return neighbours(features, k)[0][:, -1]


def neighbours(features: Tensor, count: int) -> tuple[Array, Indices]:
    """Return squared distances ``(N, count)`` to the nearest other images, in ascending order, and which these are.

    Args:
        features: Features ``(N, D)``, N greater than ``count``.
        count: How many neighbours of each image.
    """
    distances = np.empty((len(features), count))
    indices = np.empty((len(features), count), dtype=np.int64)
    for start, block in distance_blocks(features, features):
        rows = np.arange(len(block))
        block[rows, start + rows] = np.inf  # not itself
        near = np.argpartition(block, count - 1, axis=1)[:, :count]
        found = np.take_along_axis(block, near, axis=1)
        order = np.argsort(found, axis=1, kind="stable")
        distances[start : start + len(block)] = np.take_along_axis(found, order, axis=1)
        indices[start : start + len(block)] = np.take_along_axis(near, order, axis=1)
    return distances, indices


def nearest(first: Tensor, second: Tensor, *, itself: bool = True) -> tuple[Indices, Array]:
    """Return which image of ``second`` is nearest to each of ``first`` ``(N,)``, and its distance ``(N,)``.

    Of several that are equally near, the first. The distances are computed again from the differences.

    Args:
        first: Features ``(N, D)``.
        second: Features ``(M, D)``.
        itself: Whether the image of the same number counts; False where both are one set.
    """
    indices = np.empty(len(first), dtype=np.int64)
    for start, block in distance_blocks(first, second):
        rows = np.arange(len(block))
        if not itself:
            block[rows, start + rows] = np.inf
        near = block <= block.min(axis=1, keepdims=True) * (1 + TIE)
        indices[start : start + len(block)] = near.argmax(axis=1)
    distances = [
        np.sqrt(np.square(rows - second[indices[start : start + len(rows)]].double().numpy()).sum(axis=1))
        for start, rows in chunks(first)
    ]
    return indices, np.concatenate(distances)
