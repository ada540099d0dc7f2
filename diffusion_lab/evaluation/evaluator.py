"""Evaluator of sets of images against the same real images, with the same features."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffusion_lab.data.source import ImageSource, Subset
from diffusion_lab.evaluation.measure import measure
from diffusion_lab.evaluation.measurement import VERSION, Measurement
from diffusion_lab.evaluation.measurement_cache import find_measurement, measurement_key, store_measurement
from diffusion_lab.evaluation.real_images import RealImages
from diffusion_lab.evaluation.run_data import REFERENCE_INSTEAD, RealSources
from diffusion_lab.evaluation.stored_measurement import StoredMeasurement
from diffusion_lab.features import FeatureExtractor, cached_features, create_extractor, extract
from diffusion_lab.features.feature_set import FeatureSet
from diffusion_lab.metric_names import DEFAULT_METRICS, MIN_IMAGES, MetricName
from diffusion_lab.runs.identity import data_fingerprint
from diffusion_lab.runtime.seeds import derive_seed

Progress = Callable[[str, int, int], None]
"""Called with a description of the images, the number of images done, and the number of all images."""


CACHE_KEY = "evaluation.cache_dir"


@dataclass(frozen=True)
class MeasureSettings:
    """Settings of the measurement; the fields are those of the section ``evaluation``."""

    metrics: tuple[MetricName, ...] = DEFAULT_METRICS
    features: str = "auto"
    weights: Path | None = None
    sha256: str | None = None
    cache_dir: Path | None = None
    device: str | torch.device = "cpu"


class Evaluator:
    """Measures sets of images against real ones. Features of real images are computed once, and cached on disk.

    Args:
        real: Real images.
        settings: Settings of the measurement.
        progress: Called while features are computed.

    Raises:
        ValueError: The feature extractor is not available, or a requested metric cannot be computed with it.
    """

    def __init__(self, real: RealSources, settings: MeasureSettings, progress: Progress | None = None) -> None:
        if len(real.reference) < MIN_IMAGES:
            key = "evaluation.reference" if real.split is None else f"evaluation.split = {real.split}"
            raise ValueError(
                f"{key} must be at least {MIN_IMAGES} real images, got {len(real.reference)}: metrics of fewer are "
                f"meaningless{'' if real.split is None else f'; {REFERENCE_INSTEAD}'}"
            )
        self.real, self.settings = real, settings
        self._progress = progress or (lambda *_: None)
        self._real_images_by_seed: dict[int, RealImages] = {}
        self.extractor = self._extractor()
        if "inception_score" in settings.metrics and not self.extractor.has_logits:
            raise ValueError(
                "evaluation.metrics = inception_score needs features with class probabilities, such as "
                f"features=inception, got features={settings.features} ({self.extractor.label})"
            )

    def _extractor(self) -> FeatureExtractor:
        settings = self.settings
        try:
            return create_extractor(
                settings.features,
                source=self.real.reference,
                weights=settings.weights,
                sha256=settings.sha256,
                device=settings.device,
                cache_dir=settings.cache_dir,
                cache_key=CACHE_KEY,
                features_key="evaluation.features",
                progress=lambda done, total: self._progress("bytes of weights", done, total),
            )
        except ValueError as error:
            if not str(error).startswith(("features", "weights", "sha256")):  # its arguments, which are keys here
                raise
            raise ValueError(f"evaluation.{error}") from error

    def read_real_images(self) -> None:
        """Compute the features of the real images now, so that errors occur before samples are generated."""
        self._real_features, self._seen_features  # noqa: B018 - cached properties

    @cached_property
    def reference_fingerprint(self) -> str:
        """Identity of the images to compare with."""
        return data_fingerprint(self.real.reference)

    @cached_property
    def held_out_fingerprint(self) -> str | None:
        """Identity of the other real images; None if there are none."""
        return None if self.real.held_out is None else data_fingerprint(self.real.held_out)

    def conditions(self, num_samples: int) -> dict[str, Any]:
        """Return the conditions that must be equal in comparable results."""
        held_out = self.real.held_out
        return {
            "num_samples": num_samples,
            "features": self.extractor.label,
            "features_fingerprint": self.extractor.fingerprint,
            "split": self.real.split,
            "reference": self.real.name,
            "reference_images": len(self.real.reference),
            "reference_fingerprint": self.reference_fingerprint,
            "held_out_images": None if held_out is None else len(held_out),
            "held_out_fingerprint": self.held_out_fingerprint,
        }

    def measure(self, samples: ImageSource, seed: int, store_in: Path | None = None) -> StoredMeasurement:
        """Measure a set of images, or read the same measurement if it is stored.

        Args:
            samples: Images; labels of classes with the names of real classes are used.
            seed: Seed of the random subsets of metrics.
            store_in: Folder in which measurements are stored; None to store none.

        Raises:
            ValueError: There are too few images, or a requested metric does not apply to them.
        """
        key = measurement_key(
            {
                **self.conditions(len(samples)),
                "samples_fingerprint": data_fingerprint(samples),
                "metrics": list(self.settings.metrics),
                "trained_on": self.real.unknown or self._seen_fingerprint,
                "version": VERSION,
                "device": self.extractor.device_kind,
                "seed": seed,
            }
        )
        content = find_measurement(store_in, key) if store_in is not None else None
        if content is not None:
            return StoredMeasurement.from_json(content)
        real = self._real_images(seed)
        started = time.monotonic()
        features = extract(self.extractor, samples, lambda done, total: self._progress("the images", done, total))
        computed = time.monotonic()
        measurement = self._measurement(features, real, seed)
        measurement = replace(measurement, notes=(*self.extractor.notes, *measurement.notes))
        seconds = {
            "features": round(computed - started, 3),
            "metrics": round(time.monotonic() - computed, 3),
        }
        stored = StoredMeasurement(measurement.to_json(), seconds)
        if store_in is not None:
            store_measurement(store_in, key, stored.to_json())
        return stored

    def _measurement(self, features: FeatureSet, real: RealImages, seed: int) -> Measurement:
        """Measure features. Raises ValueError if a requested metric does not apply."""
        unavailable = {} if self.real.unknown is None else {"memorization": self.real.unknown}
        metrics = [name for name in self.settings.metrics if name not in unavailable]
        measurement = measure(features, real, metrics=metrics, seed=seed, split=self.real.split or self.real.name)
        skipped = {**measurement.skipped, **unavailable}
        if skipped and self.settings.metrics != DEFAULT_METRICS:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
            raise ValueError(
                f"evaluation.metrics contains metrics that do not apply to these images ({reasons}): leave them out"
            )
        return replace(measurement, skipped=skipped)

    def _real_images(self, seed: int) -> RealImages:
        """Return the features of the real images, the same object for each set of samples with the same seed."""
        if seed not in self._real_images_by_seed:
            reference, other = self._real_features
            held_out, train = (None, other) if self.real.split == "val" else (other, None)
            self._real_images_by_seed = {seed: RealImages(reference, held_out, train, seed, self._seen_features)}
        return self._real_images_by_seed[seed]

    @cached_property
    def _real_features(self) -> tuple[FeatureSet, FeatureSet | None]:
        held_out = self.real.held_out
        reference = self._cached_features(self.real.reference, f"the {self.real.name}")
        return reference, None if held_out is None else self._cached_features(held_out, "the other real images")

    @cached_property
    def _seen_features(self) -> FeatureSet | None:
        source = self.real.trained_on
        return None if source is None else self._cached_features(source, "the training images")

    @cached_property
    def _seen_fingerprint(self) -> str | None:
        return None if self.real.trained_on is None else data_fingerprint(self.real.trained_on)

    def _cached_features(self, source: ImageSource, name: str) -> FeatureSet:
        return cached_features(
            self.extractor,
            source,
            self.settings.cache_dir,
            lambda done, total: self._progress(name, done, total),
            CACHE_KEY,
        )


def first_images(source: ImageSource, count: int) -> ImageSource:
    """Return the first images of a source."""
    return source if count == len(source) else Subset(source, range(count))


def random_subset(source: ImageSource, count: int, seed: int) -> ImageSource:
    """Return ``count`` images of a source, drawn at random, in their original order."""
    if count == len(source):
        return source
    rng = np.random.default_rng(derive_seed("images to measure", seed))
    return Subset(source, np.sort(rng.permutation(len(source))[:count]))
