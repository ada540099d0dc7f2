"""Extraction of features from image sources, with few images in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from diffusion_lab.data.source import ImageSource, PixelArray
from diffusion_lab.features.extractor import FeatureExtractor
from diffusion_lab.features.feature_set import FeatureSet
from diffusion_lab.runs.identity import data_fingerprint
from diffusion_lab.runtime.determinism import seed_host_generators

Progress = Callable[[int, int], None]
"""Called with (images done, total images)."""

BLOCK = 64
"""Number of images loaded at a time."""


def extract(
    extractor: FeatureExtractor,
    source: ImageSource,
    progress: Progress | None = None,
    fingerprint: str | None = None,
) -> FeatureSet:
    """Compute the features of all images of a source, in order.

    The global random number generators are left unchanged.

    Args:
        extractor: The feature extractor.
        source: The images, with 1 or 3 channels; they are loaded without randomness.
        progress: Called with (images done, total images).
        fingerprint: Data fingerprint of the images, if known already.

    Raises:
        ValueError: There are no images, they have an alpha channel, some are damaged, or the features are not finite
            or not ``num_features`` per image.
    """
    if not len(source):
        raise ValueError("features need at least one image, got an empty set")
    fingerprint = fingerprint or data_fingerprint(source)
    values: Tensor | None = None
    logits: Tensor | None = None
    with seed_host_generators(0):
        for start, images in _blocks(source):
            batch = extractor(torch.from_numpy(images))
            _check_features(extractor, batch.values, len(images))
            if values is None:  # preallocated, since concatenation needs twice the memory
                values = torch.empty(len(source), batch.values.shape[1])
                logits = None if batch.logits is None else torch.empty(len(source), batch.logits.shape[1])
            values[start : start + len(images)] = batch.values
            if logits is not None and batch.logits is not None:
                logits[start : start + len(images)] = batch.logits
            if progress is not None:
                progress(start + len(images), len(source))
    source.raise_if_damaged(wait=True)
    assert values is not None  # there are images
    labels = torch.from_numpy(source.labels.copy()) if source.class_names else None
    return FeatureSet(
        values, logits, labels, tuple(source.class_names), extractor.label, extractor.fingerprint, fingerprint
    )


def _check_features(extractor: FeatureExtractor, values: Tensor, count: int) -> None:
    """Raise ValueError if an extractor, which may be a custom one, returns features that no metric can use."""
    expected = (count, extractor.num_features)
    if tuple(values.shape) != expected:
        raise ValueError(
            f"features = {extractor.label} must return one vector per image, {expected} for {count} images, got "
            f"{tuple(values.shape)}"
        )
    if not values.isfinite().all():
        raise ValueError(f"features = {extractor.label} must be finite, got NaN or infinity: are the weights damaged?")


def _blocks(source: ImageSource) -> Iterator[tuple[int, PixelArray]]:
    """Yield the index of the first image and the images of each block; the next block is loaded in the background."""
    starts = range(0, len(source), BLOCK)

    def load(start: int) -> PixelArray:
        return source.load_batch(np.arange(start, min(start + BLOCK, len(source)), dtype=np.int64), None)

    with ThreadPoolExecutor(1) as loader:
        next_block = loader.submit(load, 0)
        for start in starts:
            images = next_block.result()
            if start + BLOCK < len(source):
                next_block = loader.submit(load, start + BLOCK)
            yield start, images
