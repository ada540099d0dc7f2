"""The features of a reference set, computed once: found again by the fingerprints of images and extractor."""

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
"""Of the caches, and of how features are computed: another number, and no earlier cache is opened."""


class CachedFeatures(NamedTuple):
    """Features from a cache.

    Attributes:
        features: The features.
        file: Where they are kept; None where no cache could be written.
        was_there: Whether they were, before they were asked for.
    """

    features: FeatureSet
    file: Path | None
    was_there: bool


def cached_features(
    extractor: FeatureExtractor,
    source: ImageSource,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
    cache_key: str = "cache_dir",
) -> FeatureSet:
    """Return the features of a set of images, computed only where they are not in the cache.

    Args:
        extractor: What computes them.
        source: The images.
        cache_dir: Folder of all caches; None: ``diffusion_lab`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.
        progress: Called with (images done, images in all); None shows a bar on standard error.
        cache_key: The setting or argument that ``cache_dir`` comes from, for messages.

    Raises:
        ValueError: As ``extract``, or ``cache_dir`` cannot be used.
    """
    return find_or_compute(extractor, source, cache_dir, progress, cache_key).features


def find_or_compute(
    extractor: FeatureExtractor,
    source: ImageSource,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
    cache_key: str = "cache_dir",
    say: Report | None = None,
) -> CachedFeatures:
    """Do what ``cached_features`` does, and say where the features are kept.

    Args:
        extractor: As there.
        source: As there.
        cache_dir: As there.
        progress: As there.
        cache_key: As there.
        say: Called with a line when a cache is damaged or not used, and before waiting; None prints it on standard
            error.
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
        with _shown(progress) as told:
            found = extract(extractor, source, told, images)
        tensors = {"values": found.values, "logits": found.logits, "labels": found.labels}
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}, {
            "class_names": list(found.class_names)
        }

    name = re.sub(r"[^\w@.-]", "_", f"{extractor.label}-{images[:16]}-{extractor.fingerprint[:16]}-{device}")
    found = cached_tensors(name, identity, compute, say or say_on_stderr, cache_dir, cache_key)
    features = FeatureSet(
        found.tensors["values"],
        found.tensors.get("logits"),
        found.tensors.get("labels"),
        tuple(found.about["class_names"]),
        extractor.label,
        extractor.fingerprint,
        images,
    )
    return CachedFeatures(features, found.file, found.was_there)


def say_on_stderr(line: str) -> None:
    """Print a line about a cache."""
    print(printable(line), file=sys.stderr)


@contextlib.contextmanager
def _shown(progress: Progress | None) -> Iterator[Progress]:
    if progress is not None:
        yield progress
        return
    with progress_bar("computing the features of") as told:
        yield told
