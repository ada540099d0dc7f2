"""Features of images: what evaluation compares images by.

>>> from diffusion_lab.data.digits import digits
>>> extractor = create_extractor("pixels", source=digits())
>>> features = extract(extractor, digits())
>>> features.extractor, tuple(features.values.shape)
('pixels', (1438, 64))
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from diffusion_lab.config.evaluation_section import FEATURES
from diffusion_lab.data.source import ImageSource
from diffusion_lab.features.cache import CachedFeatures, cached_features, find_or_compute
from diffusion_lab.features.extraction import Progress, extract
from diffusion_lab.features.extractor import Extracted, FeatureExtractor, NetworkExtractor
from diffusion_lab.features.feature_set import FeatureSet
from diffusion_lab.features.image_sets import open_image_set
from diffusion_lab.features.published import PUBLISHED, weights_of
from diffusion_lab.runtime.determinism import seed_host_generators
from diffusion_lab.runtime.devices import resolve_device
from diffusion_lab.runtime.import_class import load_class

__all__ = [
    "NAMES",
    "CachedFeatures",
    "Extracted",
    "FeatureExtractor",
    "FeatureSet",
    "NetworkExtractor",
    "cached_features",
    "chosen_features",
    "create_extractor",
    "extract",
    "find_or_compute",
    "open_image_set",
]

NAMES = tuple(name for name in FEATURES if name != "auto")
"""Extractors that have a name; others are given by the dotted path of a class."""

SMALLEST_PICTURE = 32
"""Side in pixels from which ``auto`` takes a network of photographs."""


def chosen_features(name: str, source: ImageSource | None) -> str:
    """Return the extractor that ``auto`` means for some images; any other name as it is.

    That is ``efflite0`` for images of 32 pixels and more, else ``digits`` where they have two classes or more, else
    ``pixels``.

    Raises:
        ValueError: ``auto`` without images.
    """
    if name != "auto":
        return name
    if source is None:
        raise ValueError(f"features = auto chooses by the images: give source as well, or one of {', '.join(NAMES)}")
    if source.image_size >= SMALLEST_PICTURE:
        return "efflite0"
    return "digits" if len(source.class_names) >= 2 else "pixels"


def create_extractor(
    name: str,
    *,
    source: ImageSource | None = None,
    weights: str | Path | None = None,
    sha256: str | None = None,
    device: str | torch.device = "cpu",
    cache_dir: Path | None = None,
    cache_key: str = "cache_dir",
    features_key: str = "features",
    progress: Progress | None = None,
) -> FeatureExtractor:
    """Make an extractor of features. The generators of random numbers are left as they were.

    Args:
        name: ``auto`` (see ``chosen_features``), one of ``NAMES``, or the dotted path of a class of your own that
            derives from ``FeatureExtractor``.
        source: The reference images, by which ``auto`` chooses, which ``digits`` is trained on, and whose form
            ``pixels`` has.
        weights: File of the weights of ``inception``, ``dinov2`` or ``clip``; None for the published file, which is
            fetched where it is not on this machine.
        sha256: SHA-256 that the file in ``weights`` must have; None where it must be a published one.
        device: Where the network computes: ``cpu``, ``cuda``, ``auto`` and so on.
        cache_dir: Folder of the caches, where ``digits`` keeps its classifier; None: the user's.
        cache_key: The setting or argument that ``cache_dir`` comes from, for messages.
        features_key: The one that the dotted path comes from.
        progress: Called with (bytes fetched, bytes in all).

    Raises:
        ValueError: The name, the device or the weights are not what they must be.
        FileNotFoundError: Weights are not on this machine and cannot be fetched; says what to do.
    """
    chosen = chosen_features(name, source)
    target = resolve_device(device, "device")
    if chosen not in PUBLISHED and "." not in chosen and (weights is not None or sha256 is not None):
        given = "weights" if weights is not None else "sha256"
        raise ValueError(
            f"{given} must be left out with features={chosen}, which reads no file of weights: it is for "
            f"{', '.join(PUBLISHED)}"
        )
    with seed_host_generators(0):
        if chosen in PUBLISHED:
            return _published(chosen, *weights_of(chosen, weights, sha256, progress), target)
        if "." in chosen:
            return _own_extractor(chosen, features_key, device=target, source=source, weights=weights, sha256=sha256)
        if chosen == "efflite0":
            from diffusion_lab.features.efflite0 import EffLite0Extractor

            return EffLite0Extractor(target)
        return _made_for(chosen, source, target, cache_dir, cache_key)


def _made_for(
    name: str, source: ImageSource | None, device: torch.device, cache_dir: Path | None, cache_key: str
) -> FeatureExtractor:
    """One that depends on the images."""
    if name not in ("pixels", "digits"):
        names = ", ".join(("auto", *NAMES))
        raise ValueError(f"features must be one of {names}, or the dotted path of a class of your own, got {name!r}")
    if source is None:
        raise ValueError(f"features = {name} depends on the images: give them as source")
    if name == "pixels":
        from diffusion_lab.features.pixels import PixelExtractor

        return PixelExtractor(source.image_size, source.channels)
    from diffusion_lab.features.digits import DigitsExtractor

    return DigitsExtractor(source, device, cache_dir, cache_key)


def _published(name: str, path: Path, sha256: str, device: torch.device) -> FeatureExtractor:
    """One with a file of weights. Those that are not published are told in its name: they give no FID."""
    from diffusion_lab.features.clip import ClipExtractor
    from diffusion_lab.features.dinov2 import DinoV2Extractor
    from diffusion_lab.features.inception import InceptionExtractor

    made: Mapping[str, Callable[[Path, str, torch.device], FeatureExtractor]] = {
        "inception": InceptionExtractor,
        "dinov2": DinoV2Extractor,
        "clip": ClipExtractor,
    }
    extractor = made[name](path, sha256, device)
    if sha256 not in {file.sha256 for file in PUBLISHED[name]}:
        extractor.name = f"{extractor.name}-{sha256[:8]}"
    return extractor


def _own_extractor(path: str, key: str, **offered: Any) -> FeatureExtractor:
    """The user's own class, called with what its constructor names of what there is."""
    cls = load_class(path, key)
    if not issubclass(cls, FeatureExtractor):
        raise ValueError(f"{key} = {path} must derive from diffusion_lab.features.FeatureExtractor")
    takes = set(inspect.signature(cls).parameters)
    for name in ("weights", "sha256"):
        if offered[name] is not None and name not in takes:
            raise ValueError(f"{name} must be left out with features={path}, whose constructor does not take it")
    try:
        extractor: FeatureExtractor = cls(**{name: value for name, value in offered.items() if name in takes})
    except TypeError as error:
        raise ValueError(f"{key} = {path} cannot be made: {error}") from error
    lacking = [name for name in ("name", "num_features") if not hasattr(extractor, name)]
    if lacking:
        raise ValueError(f"{key} = {path} must have the attribute(s) {' and '.join(lacking)}")
    for called in (extractor.name, extractor.label):
        if called.partition("@")[0] in NAMES:
            raise ValueError(
                f"{key} = {path} must have a name of its own, got {called!r}, which stands for features that are built "
                "in: set name in the class"
            )
    return extractor
