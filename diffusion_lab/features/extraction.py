"""From images to their features, a few images in memory at a time."""

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
"""Called with (images done, images in all)."""

BLOCK = 64
"""Images that are loaded at a time."""


def extract(
    extractor: FeatureExtractor,
    source: ImageSource,
    progress: Progress | None = None,
    fingerprint: str | None = None,
) -> FeatureSet:
    """Compute the features of all images of a source, in order.

    The generators of random numbers are left as they were.

    Args:
        extractor: What computes them.
        source: The images, of 1 or 3 channels; what they leave to chance takes the middle.
        progress: Called with (images done, images in all).
        fingerprint: The data fingerprint of the images where it is known already.

    Raises:
        ValueError: There are no images, they have an alpha channel, some turn out to be damaged, or the features are
            not finite or not ``num_features`` an image.
    """
    if not len(source):
        raise ValueError("features need at least one image, got a set of none")
    fingerprint = fingerprint or data_fingerprint(source)
    values: Tensor | None = None
    logits: Tensor | None = None
    with seed_host_generators(0):
        for start, images in _blocks(source):
            found = extractor(torch.from_numpy(images))
            _refuse_other_features(extractor, found.values, len(images))
            if values is None:  # memory for all of them at once: joining them at the end would take it twice
                values = torch.empty(len(source), found.values.shape[1])
                logits = None if found.logits is None else torch.empty(len(source), found.logits.shape[1])
            values[start : start + len(images)] = found.values
            if logits is not None and found.logits is not None:
                logits[start : start + len(images)] = found.logits
            if progress is not None:
                progress(start + len(images), len(source))
    source.raise_if_damaged(wait=True)
    assert values is not None  # there are images
    labels = torch.from_numpy(source.labels.copy()) if source.class_names else None
    return FeatureSet(
        values, logits, labels, tuple(source.class_names), extractor.label, extractor.fingerprint, fingerprint
    )


def _refuse_other_features(extractor: FeatureExtractor, values: Tensor, count: int) -> None:
    """Raise ValueError where an extractor, which may be the user's own, gives what no metric can use."""
    expected = (count, extractor.num_features)
    if tuple(values.shape) != expected:
        raise ValueError(
            f"features = {extractor.label} must give one vector an image, {expected} for {count} images, got "
            f"{tuple(values.shape)}"
        )
    if not values.isfinite().all():
        raise ValueError(f"features = {extractor.label} must be finite, got NaN or infinity: are the weights damaged?")


def _blocks(source: ImageSource) -> Iterator[tuple[int, PixelArray]]:
    """The images by the number of the first of each block; the next block is loaded meanwhile."""
    starts = range(0, len(source), BLOCK)

    def load(start: int) -> PixelArray:
        return source.load_batch(np.arange(start, min(start + BLOCK, len(source)), dtype=np.int64), None)

    with ThreadPoolExecutor(1) as loader:
        ahead = loader.submit(load, 0)
        for start in starts:
            images = ahead.result()
            if start + BLOCK < len(source):
                ahead = loader.submit(load, start + BLOCK)
            yield start, images
