"""Cache of the features of reference sets, looked up by the fingerprints of images and extractor."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from diffusion_lab.console.terminal import printable
from diffusion_lab.data.cache_location import Report
from diffusion_lab.data.source import ImageSource
from diffusion_lab.features.extraction import Progress, extract
from diffusion_lab.features.extractor import FeatureExtractor
from diffusion_lab.features.feature_set import FeatureSet
from diffusion_lab.features.tensor_cache import Tensors, cached_tensors
from diffusion_lab.run_images.sources import progress_bar
from diffusion_lab.runs.identity import data_fingerprint

FORMAT = 1
"""Version of the cache format and of the computation of features; caches of other versions are not read."""


class CachedFeatures(NamedTuple):
    """Features from a cache.

    Attributes:
        features: The features.
        file: File of the cache; None if none could be written.
        was_cached: Whether they were read from an existing cache.
    """

    features: FeatureSet
    file: Path | None
    was_cached: bool


def cached_features(
    extractor: FeatureExtractor,
    source: ImageSource,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
    cache_key: str = "cache_dir",
) -> FeatureSet:
    """Return the features of a set of images from the cache; compute and cache them if they are missing.

    Args:
        extractor: The feature extractor.
        source: The images.
        cache_dir: Cache folder; None: ``diffusion_lab`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.
        progress: Called with (images done, total images); None shows a progress bar on standard error.
        cache_key: Setting or argument that ``cache_dir`` comes from, for error messages.

    Raises:
        ValueError: The same as in ``extract``, or ``cache_dir`` cannot be used.
    """
    return find_or_compute(extractor, source, cache_dir, progress, cache_key).features


def find_or_compute(
    extractor: FeatureExtractor,
    source: ImageSource,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
    cache_key: str = "cache_dir",
    report: Report | None = None,
) -> CachedFeatures:
    """Return features like ``cached_features``, together with the file of the cache.

    Args:
        extractor: The feature extractor.
        source: The images.
        cache_dir: Cache folder; None for that of the user.
        progress: Called with (images done, total images); None shows a progress bar on standard error.
        cache_key: Setting or argument that ``cache_dir`` comes from, for error messages.
        report: Called with a message if a cache is damaged or not used, and before waiting for another process; None
            prints it on standard error.
    """
    images = data_fingerprint(source)
    device = extractor.device_kind
    identity = {
        "format": FORMAT,
        "data_fingerprint": images,
        "extractor": extractor.label,
        "extractor_fingerprint": extractor.fingerprint,
        "device": device,
        "images": len(source),
    }

    def compute() -> tuple[Tensors, Mapping[str, Any]]:
        with _progress_or_bar(progress) as report_progress:
            computed = extract(extractor, source, report_progress, images)
        tensors = {"values": computed.values, "logits": computed.logits, "labels": computed.labels}
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}, {
            "class_names": list(computed.class_names)
        }

    name = re.sub(r"[^\w@.-]", "_", f"{extractor.label}-{images[:16]}-{extractor.fingerprint[:16]}-{device}")
    cached = cached_tensors(name, identity, compute, report or print_to_stderr, cache_dir, cache_key)
    features = FeatureSet(
        cached.tensors["values"],
        cached.tensors.get("logits"),
        cached.tensors.get("labels"),
        tuple(cached.about["class_names"]),
        extractor.label,
        extractor.fingerprint,
        images,
    )
    return CachedFeatures(features, cached.file, cached.was_cached)


def print_to_stderr(line: str) -> None:
    """Print a message on standard error."""
    print(printable(line), file=sys.stderr)


@contextlib.contextmanager
def _progress_or_bar(progress: Progress | None) -> Iterator[Progress]:
    if progress is not None:
        yield progress
        return
    with progress_bar("computing the features of") as bar:
        yield bar
