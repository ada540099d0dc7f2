"""Evaluation of samples during training: they are compared with images of the run."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffusion_lab.config.evaluation_section import TrainingEvaluationSettings
from diffusion_lab.data.source import ImageSource
from diffusion_lab.evaluation.measure import measure
from diffusion_lab.evaluation.measurement import Measurement
from diffusion_lab.evaluation.null_rows import HELD_OUT, null_comparison
from diffusion_lab.evaluation.real_images import RealImages
from diffusion_lab.faults import ConfigWarning
from diffusion_lab.features import FeatureExtractor, FeatureSet, cached_features, create_extractor
from diffusion_lab.features.opaque import composite_over_white, without_transparency
from diffusion_lab.guidance import PLAIN, Guidance
from diffusion_lab.metric_names import MIN_IMAGES, MetricName, logged_name, logged_names
from diffusion_lab.runtime.devices import host_memory
from diffusion_lab.runtime.seeds import derive_seed
from diffusion_lab.samplers import UniPCSampler
from diffusion_lab.sampling import DiffusionSampler
from diffusion_lab.shapes import Images, to_pixels

CACHE_KEY = "evaluation.cache_dir"

BYTES_PER_FEATURE = 4 + 8
"""Memory of a feature of a sample: in float32, and in float64 for the metrics."""


class NullValue(NamedTuple):
    """Metric of real images in place of samples.

    Attributes:
        value: Value of the metric.
        n: Number of images in place of samples.
        reference_n: Number of real images that they were compared with; 0 if none were needed.
        source: Description of these images.
    """

    value: float
    n: int
    reference_n: int
    source: str

    def has_other_counts(self, num_samples: int) -> bool:
        """Return whether the value is of another number of images, or another reference, than that of the samples."""
        return self.n != num_samples or (self.reference_n > 0 and self.source != HELD_OUT)

    @property
    def counts(self) -> str:
        """Description of the numbers of images: ``of 256 against 647``."""
        return f"of {self.n:,}" + (f" against {self.reference_n:,}" if self.reference_n else "")


class EvaluationStopped(Exception):
    """The evaluation was interrupted because the run is to stop."""


@dataclass(frozen=True)
class StoppableSampler(UniPCSampler):
    """Sampler of ``sampler=fast`` that raises :class:`EvaluationStopped` between steps if the run is to stop."""

    should_stop: Callable[[], bool] = field(default=lambda: False, repr=False, compare=False)

    def trajectory(self, *args: Any, **kwargs: Any) -> Iterator[Images]:
        for images in super().trajectory(*args, **kwargs):
            if self.should_stop():
                raise EvaluationStopped
            yield images


class SampleEvaluation:
    """Samples a model, always from the same noise and labels, and compares the samples with images of the run.

    Labels have the class frequencies of the real images.

    Args:
        settings: Settings of the evaluation.
        train: Training images.
        val: Validation images; None if there are none.
        is_conditional: Whether the model is class-conditional.
        seed: Seed of the run.
        guidance: Options of classifier-free guidance.
        device: Device on which features are computed.

    Attributes:
        null: Values of real images in place of samples, by the logged names of the metrics; empty until ``prepare``.
        preparation_seconds: Time from the creation to the end of ``prepare``; 0 until then.

    Raises:
        ValueError: There are too few real images, the features lack what a metric needs, or the samples do not fit
            into memory; the message has the key.
    """

    def __init__(
        self,
        settings: TrainingEvaluationSettings,
        train: ImageSource,
        val: ImageSource | None,
        is_conditional: bool,
        seed: int,
        guidance: Guidance = PLAIN,
        device: torch.device | str = "cpu",
    ) -> None:
        self._created = time.monotonic()
        self.null: dict[str, NullValue] = {}
        self.preparation_seconds = 0.0
        self.settings, self.guidance = settings, guidance
        self.train, self.val = without_transparency(train), None if val is None else without_transparency(val)
        self.seed = derive_seed("evaluation", seed)
        self._warned_metrics: set[str] = set()  # those that do not apply
        self.reference = self.val if settings.split == "val" and self.val is not None else self.train
        _check_images(settings, self.reference, self.train)
        self.extractor = _create_extractor(settings, self.train, device)
        _check_logits(settings.metrics, self.extractor)
        _check_memory(settings.num_samples, self.extractor)
        self.labels = _proportional_labels(self.reference, settings.num_samples) if is_conditional else None

    @property
    def names(self) -> tuple[str, ...]:
        """Names under which the values are logged."""
        return logged_names(self.settings.metrics, self.extractor.name)

    @property
    def description(self) -> str:
        """Description of the samples, the real images and the features."""
        settings = self.settings
        kind = "training" if self.reference is self.train else "validation"
        scale = "" if self.labels is None else f", guidance {settings.guidance_scale:g}"
        return (
            f"{settings.num_samples:,} samples ({settings.sampler_steps} steps of UniPC{scale}) and "
            f"{len(self.reference):,} {kind} images, compared by {self.extractor.label}"
        )

    @property
    def facts(self) -> dict[str, Any]:
        """Settings and null values, in values of JSON."""
        settings = self.settings
        return {
            "features": self.extractor.label,
            "notes": list(self.extractor.notes),
            "num_samples": settings.num_samples,
            "split": settings.split,
            "real_images": len(self.reference),
            "sampler_steps": settings.sampler_steps,
            "guidance_scale": settings.guidance_scale,
            "null": {name: null._asdict() for name, null in self.null.items()},
        }

    def prepare(self) -> None:
        """Compute the features of the real images, and measure real images in place of samples.

        Features of real images are cached on disk. The real images in place of samples are held-out ones if there are
        as many as samples, else one half is compared with the other.

        Raises:
            ValueError: The features of the real images are not finite, or not ``num_features`` per image; the message
                has the key.
        """
        for metric in self.settings.metrics:
            null = null_comparison(metric, self.settings.num_samples, self._real)
            if null is not None:
                for row in measure(null.images, null.real, metrics=[metric], thorough=False).rows:
                    name = logged_name(row.metric, self.extractor.name)
                    self.null[name] = NullValue(row.estimate.value, row.n, row.reference_n, null.source)
        self.preparation_seconds = time.monotonic() - self._created

    def values(self, sampler: DiffusionSampler, should_stop: Callable[[], bool] = lambda: False) -> dict[str, float]:
        """Return the values of a model's samples, by the name under which they are logged.

        Args:
            sampler: Sampler of the model, with its averaged weights if it has any.
            should_stop: Returns whether the run is to stop; called after each step of the sampler.

        Raises:
            NonFiniteSamplesError: Samples are NaN or infinite.
            EvaluationStopped: ``should_stop`` returned True.
        """
        settings = self.settings
        stream = sampler.stream(
            settings.num_samples,
            self.labels,
            settings.guidance_scale,
            sampler=StoppableSampler(steps=settings.sampler_steps, should_stop=should_stop),
            guidance=self.guidance,
            seed=self.seed,
            batch_size_name="the batch size of evaluation",
        )
        features: list[Tensor] = []
        logits: list[Tensor] = []
        for batch in stream:
            extracted = self.extractor(composite_over_white(to_pixels(batch.images).cpu()))
            features.append(extracted.values)
            if extracted.logits is not None:
                logits.append(extracted.logits)
            if should_stop():
                raise EvaluationStopped
        samples = FeatureSet(
            values=torch.cat(features),
            logits=torch.cat(logits) if logits else None,
            labels=None if self.labels is None else torch.tensor(self.labels),
            class_names=() if self.labels is None else self.reference.class_names,
            extractor=self.extractor.label,
            extractor_fingerprint=self.extractor.fingerprint,
            data_fingerprint="",
        )
        measurement = measure(samples, self._real, metrics=settings.metrics, split=settings.split, thorough=False)
        self._warn_about_skipped(measurement)
        return {logged_name(row.metric, self.extractor.name): row.estimate.value for row in measurement.rows}

    def _warn_about_skipped(self, measurement: Measurement) -> None:
        """Warn once about each metric that does not apply."""
        for metric in measurement.skipped.keys() - self._warned_metrics:
            self._warned_metrics.add(metric)
            warnings.warn(f"evaluation skips {metric}: {measurement.skipped[metric]}", ConfigWarning, stacklevel=2)

    @cached_property
    def _real(self) -> RealImages:
        is_train = self.reference is self.train
        reference = self._features(self.reference)
        held_out = self._held_out if is_train else None
        return RealImages(reference, held_out, None if is_train else self._train)

    @cached_property
    def _train(self) -> FeatureSet:
        return self._features(self.train)

    @cached_property
    def _held_out(self) -> FeatureSet | None:
        return None if self.val is None else self._features(self.val)

    def _features(self, source: ImageSource) -> FeatureSet:
        with _name_keys_in_errors():
            return cached_features(self.extractor, source, self.settings.cache_dir, cache_key=CACHE_KEY)


def _create_extractor(
    settings: TrainingEvaluationSettings, train: ImageSource, device: torch.device | str
) -> FeatureExtractor:
    with _name_keys_in_errors():
        return create_extractor(
            settings.features,
            source=train,
            weights=settings.weights,
            sha256=settings.sha256,
            device=device,
            cache_dir=settings.cache_dir,
            cache_key=CACHE_KEY,
            features_key="evaluation.features",
        )


@contextlib.contextmanager
def _name_keys_in_errors() -> Iterator[None]:
    """Name keys of the settings instead of arguments in errors about features."""
    try:
        yield
    except ValueError as error:
        if not str(error).startswith(("features", "weights", "sha256")):  # its arguments, which are keys here
            raise
        raise ValueError(f"evaluation.{error}") from error


def _check_images(settings: TrainingEvaluationSettings, reference: ImageSource, train: ImageSource) -> None:
    if len(reference) < MIN_IMAGES:
        raise ValueError(
            f"evaluation.split = {settings.split} has {len(reference)} images, and an evaluation needs at least "
            f"{MIN_IMAGES} real images to compare samples with: add images, or set evaluation=off"
        )
    if "label_agreement" in settings.metrics and len(set(train.labels.tolist())) < 2:
        raise ValueError(
            "evaluation.metrics must not name label_agreement: the training images are all of one class, and it needs "
            "at least two"
        )


def _check_logits(metrics: tuple[MetricName, ...], extractor: FeatureExtractor) -> None:
    if "inception_score" in metrics and not extractor.has_logits:
        raise ValueError(
            f"evaluation.metrics must not name inception_score with evaluation.features {extractor.name}, which does "
            "not classify images"
        )


def _check_memory(count: int, extractor: FeatureExtractor) -> None:
    limit = host_memory() / 2 / (BYTES_PER_FEATURE * extractor.num_features)  # infinite if the memory is unknown
    if count > limit:
        raise ValueError(
            f"evaluation.num_samples must be at most {int(limit):,}, got {count:,}: the "
            f"{extractor.num_features:,} features ({extractor.label}) of {count:,} images do not fit into the "
            "memory of this machine"
        )


def _proportional_labels(source: ImageSource, count: int) -> list[int]:
    """Return class numbers with the frequencies of those of the images, in ascending order."""
    ordered = np.sort(source.labels)
    indices = (np.arange(count) + 0.5) * len(ordered) / count
    return [int(label) for label in ordered[indices.astype(np.int64)]]
