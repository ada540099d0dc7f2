"""Features of images, by which evaluation compares image sets.

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
from diffusion_lab.features.published import PUBLISHED, resolve_weights
from diffusion_lab.metric_names import MIN_PHOTO_SIZE
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
"""Names of the built-in extractors; custom ones are given by the dotted path of their class."""


def chosen_features(name: str, source: ImageSource | None) -> str:
    """Return the name of the extractor that ``auto`` selects for the images; any other name is returned unchanged.

    ``auto`` is ``efflite0`` for images of 32 pixels and more, else ``digits`` if they have at least two classes, else
    ``pixels``.

    Raises:
        ValueError: The name is ``auto`` and ``source`` is None.
    """
    if name != "auto":
        return name
    if source is None:
        raise ValueError(f"features = auto depends on the images: pass source, or one of {', '.join(NAMES)}")
    if source.image_size >= MIN_PHOTO_SIZE:
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
    """Create a feature extractor. The global random number generators are left unchanged.

    Args:
        name: ``auto`` (see ``chosen_features``), one of ``NAMES``, or the dotted path of a custom subclass of
            ``FeatureExtractor``.
        source: Reference images: ``auto`` depends on them, ``digits`` is trained on them, and ``pixels`` has their size
            and channels.
        weights: Weights file of ``inception``, ``dinov2`` or ``clip``; None for the published file, which is downloaded
            if it is not on this machine.
        sha256: Expected SHA-256 of ``weights``; None if it must be a published file.
        device: Device of the network: ``cpu``, ``cuda``, ``auto`` and so on.
        cache_dir: Cache folder, where ``digits`` saves its classifier; None for that of the user.
        cache_key: Setting or argument that ``cache_dir`` comes from, for error messages.
        features_key: Setting or argument that the dotted path comes from, for error messages.
        progress: Called with (bytes downloaded, total bytes).

    Raises:
        ValueError: The name, the device or the weights are invalid.
        FileNotFoundError: The weights are not on this machine and cannot be downloaded.
    """
    chosen = chosen_features(name, source)
    torch_device = resolve_device(device, "device")
    if chosen not in PUBLISHED and "." not in chosen and (weights is not None or sha256 is not None):
        argument = "weights" if weights is not None else "sha256"
        raise ValueError(
            f"{argument} must be left out with features={chosen}, which has no weights file: it is for "
            f"{', '.join(PUBLISHED)}"
        )
    with seed_host_generators(0):
        if chosen in PUBLISHED:
            return _create_published(chosen, *resolve_weights(chosen, weights, sha256, progress), torch_device)
        if "." in chosen:
            return _create_custom(
                chosen, features_key, device=torch_device, source=source, weights=weights, sha256=sha256
            )
        if chosen == "efflite0":
            from diffusion_lab.features.efflite0 import EffLite0Extractor

            return EffLite0Extractor(torch_device)
        return _create_for_images(chosen, source, torch_device, cache_dir, cache_key)


def _create_for_images(
    name: str, source: ImageSource | None, device: torch.device, cache_dir: Path | None, cache_key: str
) -> FeatureExtractor:
    """Create an extractor that depends on the images."""
    if name not in ("pixels", "digits"):
        names = ", ".join(("auto", *NAMES))
        raise ValueError(f"features must be one of {names}, or the dotted path of a custom class, got {name!r}")
    if source is None:
        raise ValueError(f"features = {name} depends on the images: pass them as source")
    if name == "pixels":
        from diffusion_lab.features.pixels import PixelExtractor

        return PixelExtractor(source.image_size, source.channels)
    from diffusion_lab.features.digits import DigitsExtractor

    return DigitsExtractor(source, device, cache_dir, cache_key)


def _create_published(name: str, path: Path, sha256: str, device: torch.device) -> FeatureExtractor:
    """Create an extractor with a weights file; unpublished weights are marked in its name, since they give no FID."""
    from diffusion_lab.features.clip import ClipExtractor
    from diffusion_lab.features.dinov2 import DinoV2Extractor
    from diffusion_lab.features.inception import InceptionExtractor

    extractors: Mapping[str, Callable[[Path, str, torch.device], FeatureExtractor]] = {
        "inception": InceptionExtractor,
        "dinov2": DinoV2Extractor,
        "clip": ClipExtractor,
    }
    extractor = extractors[name](path, sha256, device)
    if sha256 not in {file.sha256 for file in PUBLISHED[name]}:
        extractor.name = f"{extractor.name}-{sha256[:8]}"
    return extractor


def _create_custom(path: str, key: str, **arguments: Any) -> FeatureExtractor:
    """Create an extractor of a custom class, passing only the arguments that its constructor accepts."""
    cls = load_class(path, key)
    if not issubclass(cls, FeatureExtractor):
        raise ValueError(f"{key} = {path} must derive from diffusion_lab.features.FeatureExtractor")
    accepted = set(inspect.signature(cls).parameters)
    for name in ("weights", "sha256"):
        if arguments[name] is not None and name not in accepted:
            raise ValueError(f"{name} must be left out with features={path}, whose constructor does not accept it")
    try:
        extractor: FeatureExtractor = cls(**{name: value for name, value in arguments.items() if name in accepted})
    except TypeError as error:
        raise ValueError(f"{key} = {path} cannot be created: {error}") from error
    missing = [name for name in ("name", "num_features") if not hasattr(extractor, name)]
    if missing:
        raise ValueError(f"{key} = {path} must have the attribute(s) {' and '.join(missing)}")
    for label in (extractor.name, extractor.label):
        if label.partition("@")[0] in NAMES:
            raise ValueError(
                f"{key} = {path} must have a unique name, got {label!r}, which is that of a built-in extractor: "
                "set name in the class"
            )
    return extractor
