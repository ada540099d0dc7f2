"""Distances and nearest neighbours of many images, in blocks instead of a matrix of all pairs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from diffusion_lab.evaluation.metrics.arrays import Array, chunks, column_means, products

Indices = NDArray[np.int64]

ROWS, COLUMNS = 256, 4096
MAX_CACHED = 2**24
"""Maximum number of values that are converted to float64 once (128 MiB), rather than again for each block of rows."""

TIE = 1e-9
"""Relative difference of squared distances below which they count as equal: finer than the precision of float32
features, and coarser than the rounding of matrix products, which differs between machines."""

SAME = 1e-12
"""Squared distance, relative to the squared norms, below which two images have the same features."""


def distance_blocks(first: Tensor, second: Tensor) -> Iterator[tuple[int, Array]]:
    """Yield squared Euclidean distances ``(256, M)``, each block with the index of its first row.

    They are computed by matrix products, which is many times faster than by differences. Features are centred first,
    so that little precision is lost, and the distance of images with the same features is exactly 0.

    Args:
        first: Features ``(N, D)``.
        second: Features ``(M, D)``.
    """
    centre = column_means(second)
    centred: Iterable[tuple[int, Array]] = _Centred(second, centre)
    if second.numel() <= MAX_CACHED:
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
    """Centred features in float64, converted again at each iteration."""

    def __init__(self, features: Tensor, centre: Array) -> None:
        self.features, self.centre = features, centre

    def __iter__(self) -> Iterator[tuple[int, Array]]:
        return ((start, rows - self.centre) for start, rows in chunks(self.features, COLUMNS))


def squared_radii(features: Tensor, k: int) -> Array:
    """Return the squared distance of each image to its k-th nearest other image ``(N,)``, N greater than k."""
    return neighbours(features, k)[0][:, -1]


def neighbours(features: Tensor, count: int) -> tuple[Array, Indices]:
    """Return squared distances ``(N, count)`` to the nearest other images, in ascending order, and their indices.

    Args:
        features: Features ``(N, D)``, N greater than ``count``.
        count: Number of neighbours of each image.
    """
    distances = np.empty((len(features), count))
    indices = np.empty((len(features), count), dtype=np.int64)
    for start, block in distance_blocks(features, features):
        rows = np.arange(len(block))
        block[rows, start + rows] = np.inf  # not itself
        near = np.argpartition(block, count - 1, axis=1)[:, :count]
        nearest_distances = np.take_along_axis(block, near, axis=1)
        order = np.argsort(nearest_distances, axis=1, kind="stable")
        distances[start : start + len(block)] = np.take_along_axis(nearest_distances, order, axis=1)
        indices[start : start + len(block)] = np.take_along_axis(near, order, axis=1)
    return distances, indices


def nearest(first: Tensor, second: Tensor, *, same_set: bool = False) -> tuple[Indices, Array]:
    """Return the index of the image of ``second`` nearest to each of ``first`` ``(N,)``, and its distance ``(N,)``.

    Of several that are equally near, the first is taken. The distances are recomputed from the differences.

    Args:
        first: Features ``(N, D)``.
        second: Features ``(M, D)``.
        same_set: Whether both are the same set, so that an image is not compared with itself.
    """
    indices = np.empty(len(first), dtype=np.int64)
    for start, block in distance_blocks(first, second):
        rows = np.arange(len(block))
        if same_set:
            block[rows, start + rows] = np.inf
        near = block <= block.min(axis=1, keepdims=True) * (1 + TIE)
        indices[start : start + len(block)] = near.argmax(axis=1)
    distances = [
        np.sqrt(np.square(rows - second[indices[start : start + len(rows)]].double().numpy()).sum(axis=1))
        for start, rows in chunks(first)
    ]
    return indices, np.concatenate(distances)
