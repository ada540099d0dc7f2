"""Sets of images measured against the same real images, with the same features."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffusion_lab.config.evaluation_section import DEFAULT_METRICS, MIN_IMAGES, MetricName
from diffusion_lab.data.source import ImageSource, Subset
from diffusion_lab.evaluation.measure import measure
from diffusion_lab.evaluation.measurement import VERSION, Measurement
from diffusion_lab.evaluation.measurement_cache import find_measurement, measurement_key, store_measurement
from diffusion_lab.evaluation.real_images import RealImages
from diffusion_lab.evaluation.run_data import INSTEAD, RealSources
from diffusion_lab.evaluation.stored_measurement import StoredMeasurement
from diffusion_lab.features import FeatureExtractor, cached_features, create_extractor, extract
from diffusion_lab.features.feature_set import FeatureSet
from diffusion_lab.identity import data_fingerprint
from diffusion_lab.seeds import derive_seed

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many images are done, and how many there are."""


CACHE_KEY = "evaluation.cache_dir"


@dataclass(frozen=True)
class MeasureSettings:
    """How images are measured; the fields are those of the section ``evaluation``."""

    metrics: tuple[MetricName, ...] = DEFAULT_METRICS
    features: str = "auto"
    weights: Path | None = None
    sha256: str | None = None
    cache_dir: Path | None = None
    device: str | torch.device = "cpu"


class Evaluator:
    """Measures sets of images against real ones. Features of real images are computed once, and cached on disk.

    Args:
        real: The real images.
        settings: How images are measured.
        progress: Called as features of images are computed.

    Raises:
        ValueError: The features cannot be had, or a metric that was asked for cannot be computed with them.
    """

    def __init__(self, real: RealSources, settings: MeasureSettings, progress: Progress | None = None) -> None:
        if len(real.reference) < MIN_IMAGES:
            key = "evaluation.reference" if real.split is None else f"evaluation.split = {real.split}"
            raise ValueError(
                f"{key} must be at least {MIN_IMAGES} real images, got {len(real.reference)}: metrics of fewer are "
                f"meaningless{'' if real.split is None else f'; {INSTEAD}'}"
            )
        self.real, self.settings = real, settings
        self._progress = progress or (lambda *_: None)
        self._of_seed: dict[int, RealImages] = {}
        self.extractor = self._extractor()
        if "inception_score" in settings.metrics and not self.extractor.has_logits:
            raise ValueError(
                "evaluation.metrics = inception_score needs features that come with class probabilities, such as "
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
        """Compute the features of the real images now: what stands in the way is then known before samples are made."""
        self._features_of_real_images, self._features_of_trained_on  # noqa: B018 - they are kept

    @cached_property
    def reference_fingerprint(self) -> str:
        """Identity of the images to compare with."""
        return data_fingerprint(self.real.reference)

    @cached_property
    def held_out_fingerprint(self) -> str | None:
        """Identity of the other real images; None where there are none."""
        return None if self.real.held_out is None else data_fingerprint(self.real.held_out)

    def conditions(self, num_samples: int) -> dict[str, Any]:
        """Return what must be equal for two results to be compared."""
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
        """Measure a set of images, or find the same measurement where it was kept.

        Args:
            samples: The images; those whose classes have the names of real ones are labelled.
            seed: Of the random subsets that metrics take.
            store_in: Folder in which measurements are kept; None to keep none.

        Raises:
            ValueError: There are too few images, or a metric that was asked for does not apply to them.
        """
        key = measurement_key(
            {
                **self.conditions(len(samples)),
                "samples_fingerprint": data_fingerprint(samples),
                "metrics": list(self.settings.metrics),
                "trained_on": self.real.unknown or self._fingerprint_of_trained_on,
                "version": VERSION,
                "device": self.extractor.device_kind,
                "seed": seed,
            }
        )
        found = find_measurement(store_in, key) if store_in is not None else None
        if found is not None:
            return StoredMeasurement.from_json(found)
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
        measured = StoredMeasurement(measurement.to_json(), seconds)
        if store_in is not None:
            store_measurement(store_in, key, measured.to_json())
        return measured

    def _measurement(self, features: FeatureSet, real: RealImages, seed: int) -> Measurement:
        """Raises ValueError where a metric that was asked for does not apply."""
        left_out = {} if self.real.unknown is None else {"memorization": self.real.unknown}
        metrics = [name for name in self.settings.metrics if name not in left_out]
        found = measure(features, real, metrics=metrics, seed=seed, split=self.real.split or self.real.name)
        skipped = {**found.skipped, **left_out}
        if skipped and self.settings.metrics != DEFAULT_METRICS:
            told = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
            raise ValueError(f"evaluation.metrics holds what does not apply to these images ({told}): leave it out")
        return replace(found, skipped=skipped)

    def _real_images(self, seed: int) -> RealImages:
        """The features of the real images; what is computed from them is kept for the next set with the same seed."""
        if seed not in self._of_seed:
            reference, held_out = self._features_of_real_images
            self._of_seed = {seed: RealImages(reference, *self._parts(held_out), seed, self._features_of_trained_on)}
        return self._of_seed[seed]

    def _parts(self, held_out: FeatureSet | None) -> tuple[FeatureSet | None, FeatureSet | None]:
        """Images that the model was not trained on beside the reference, and those that it was trained on."""
        return (None, held_out) if self.real.split == "val" else (held_out, None)

    @cached_property
    def _features_of_real_images(self) -> tuple[FeatureSet, FeatureSet | None]:
        held_out = self.real.held_out
        reference = self._cached(self.real.reference, f"the {self.real.name}")
        return reference, None if held_out is None else self._cached(held_out, "the other real images")

    @cached_property
    def _features_of_trained_on(self) -> FeatureSet | None:
        source = self.real.trained_on
        return None if source is None else self._cached(source, "the training images")

    @cached_property
    def _fingerprint_of_trained_on(self) -> str | None:
        return None if self.real.trained_on is None else data_fingerprint(self.real.trained_on)

    def _cached(self, source: ImageSource, name: str) -> FeatureSet:
        return cached_features(
            self.extractor,
            source,
            self.settings.cache_dir,
            lambda done, total: self._progress(name, done, total),
            CACHE_KEY,
        )


def first_images(source: ImageSource, count: int) -> ImageSource:
    """The first images of a source."""
    return source if count == len(source) else Subset(source, range(count))


def random_subset(source: ImageSource, count: int, seed: int) -> ImageSource:
    """As many images of a source, drawn at random, in their order."""
    if count == len(source):
        return source
    rng = np.random.default_rng(derive_seed("images to measure", seed))
    return Subset(source, np.sort(rng.permutation(len(source))[:count]))


def smallest_size(sources: Sequence[ImageSource]) -> int:
    """The number of images of the smallest source."""
    return min(map(len, sources))
