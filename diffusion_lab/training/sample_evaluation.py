"""How good the samples of a model in training are: they are compared with images of the run."""

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

from diffusion_lab.config.evaluated_metrics import logged_name, logged_names
from diffusion_lab.config.evaluation_section import MIN_IMAGES, MetricName
from diffusion_lab.config.faults import ConfigWarning
from diffusion_lab.config.training_evaluation import TrainingEvaluationSettings
from diffusion_lab.data.source import ImageSource
from diffusion_lab.devices import host_memory
from diffusion_lab.evaluation.measure import measure
from diffusion_lab.evaluation.measurement import Measurement
from diffusion_lab.evaluation.null_rows import HELD_OUT, null_comparison
from diffusion_lab.evaluation.real_images import RealImages
from diffusion_lab.features import FeatureExtractor, FeatureSet, cached_features, create_extractor
from diffusion_lab.features.opaque import composite_over_white, without_transparency
from diffusion_lab.guidance import PLAIN, Guidance
from diffusion_lab.samplers import UniPCSampler
from diffusion_lab.sampling import DiffusionSampler
from diffusion_lab.seeds import derive_seed
from diffusion_lab.shapes import Images, to_pixels

CACHE_KEY = "evaluation.cache_dir"

BYTES_A_FEATURE = 4 + 8
"""Of a sample: in float32, and in float64 for the metrics."""


class NullValue(NamedTuple):
    """A metric of real images in place of samples.

    Attributes:
        value: Its value.
        n: How many images these are.
        reference_n: How many real images they were compared with; 0 where none were needed.
        source: Which images these are, in words.
    """

    value: float
    n: int
    reference_n: int
    source: str

    def differs(self, num_samples: int) -> bool:
        """Whether the values of so many samples come from other numbers of images, or another reference."""
        return self.n != num_samples or (self.reference_n > 0 and self.source != HELD_OUT)

    @property
    def numbers(self) -> str:
        """How many images were compared, in words."""
        return f"of {self.n:,}" + (f" against {self.reference_n:,}" if self.reference_n else "")


class EvaluationStopped(Exception):
    """The evaluation was left unfinished because the run is to stop."""


@dataclass(frozen=True)
class StoppableSampler(UniPCSampler):
    """The method of ``sampler=fast``, which asks after each step whether the run is to stop."""

    stopped: Callable[[], bool] = field(default=lambda: False, repr=False, compare=False)

    def trajectory(self, *args: Any, **kwargs: Any) -> Iterator[Images]:
        for images in super().trajectory(*args, **kwargs):
            if self.stopped():
                raise EvaluationStopped
            yield images


class SampleEvaluation:
    """Samples a model, each time from the same noise and labels, and compares the samples with images of the run.

    Labels are as frequent among the samples as among the real images.

    Args:
        settings: Which metrics on which features, of how many samples.
        train: The images trained on.
        val: The images validated on, None where there are none.
        is_conditional: Whether samples are made by class.
        seed: Of the run.
        guidance: At which noise levels guidance is applied, and how it is restrained.
        device: Where features are computed.

    Attributes:
        null: Real images in place of samples, by the names of the metrics; empty until ``prepare``.
        preparation_seconds: Time from the creation to the end of ``prepare``, until which it is 0.

    Raises:
        ValueError: There are too few real images, the features do not give what a metric needs, or the samples do not
            fit into memory; naming the key.
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
        self._told: set[str] = set()  # metrics that do not apply
        self.reference = self.val if settings.split == "val" and self.val is not None else self.train
        _refuse_few_images(settings, self.reference, self.train)
        self.extractor = _extractor(settings, self.train, device)
        _refuse_missing_logits(settings.metrics, self.extractor)
        _refuse_outsized(settings.num_samples, self.extractor)
        self.labels = _labels_like(self.reference, settings.num_samples) if is_conditional else None

    @property
    def names(self) -> tuple[str, ...]:
        """The names under which the values are logged."""
        return logged_names(self.settings.metrics, self.extractor.name)

    @property
    def description(self) -> str:
        """What is compared with what, in words."""
        settings = self.settings
        kind = "training" if self.reference is self.train else "validation"
        scale = "" if self.labels is None else f", guidance {settings.guidance_scale:g}"
        return (
            f"{settings.num_samples:,} samples ({settings.sampler_steps} steps of UniPC{scale}) and "
            f"{len(self.reference):,} {kind} images, compared by {self.extractor.label}"
        )

    def prepare(self) -> None:
        """Compute what every evaluation needs of the real images, and measure real images in place of samples.

        Features of real images are cached on disk. The real images in place of samples are held-out ones where there
        are as many as samples, else one half is compared with the other.

        Raises:
            ValueError: The features of the real images are not finite or not ``num_features`` an image; naming the key.
        """
        for metric in self.settings.metrics:
            null = null_comparison(metric, self.settings.num_samples, self._real)
            if null is not None:
                for row in measure(null.images, null.real, metrics=[metric], thorough=False).rows:
                    name = logged_name(row.metric, self.extractor.name)
                    self.null[name] = NullValue(row.estimate.value, row.n, row.reference_n, null.source)
        self.preparation_seconds = time.monotonic() - self._created

    def values(self, sampler: DiffusionSampler, stopped: Callable[[], bool] = lambda: False) -> dict[str, float]:
        """Return the values of a model's samples, by the name under which they are logged.

        Args:
            sampler: Of the model, with its average where it has one.
            stopped: Whether the run is to stop; asked after each step of the sampler.

        Raises:
            NonFiniteSamplesError: Samples are NaN or infinite.
            EvaluationStopped: ``stopped`` said so.
        """
        settings = self.settings
        stream = sampler.stream(
            settings.num_samples,
            self.labels,
            settings.guidance_scale,
            sampler=StoppableSampler(steps=settings.sampler_steps, stopped=stopped),
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
            if stopped():
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
        found = measure(samples, self._real, metrics=settings.metrics, split=settings.split, thorough=False)
        self._tell_skipped(found)
        return self._logged(found)

    def _tell_skipped(self, found: Measurement) -> None:
        for metric in found.skipped.keys() - self._told:
            self._told.add(metric)
            warnings.warn(f"evaluation gives no {metric}: {found.skipped[metric]}", ConfigWarning, stacklevel=2)

    def _logged(self, found: Measurement) -> dict[str, float]:
        return {logged_name(row.metric, self.extractor.name): row.estimate.value for row in found.rows}

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
        with _named_as_settings():
            return cached_features(self.extractor, source, self.settings.cache_dir, cache_key=CACHE_KEY)


def _extractor(
    settings: TrainingEvaluationSettings, train: ImageSource, device: torch.device | str
) -> FeatureExtractor:
    with _named_as_settings():
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
def _named_as_settings() -> Iterator[None]:
    """Have errors about features name the keys."""
    try:
        yield
    except ValueError as error:
        if not str(error).startswith(("features", "weights", "sha256")):  # its arguments, which are keys here
            raise
        raise ValueError(f"evaluation.{error}") from error


def _refuse_few_images(settings: TrainingEvaluationSettings, reference: ImageSource, train: ImageSource) -> None:
    if len(reference) < MIN_IMAGES:
        raise ValueError(
            f"evaluation.split = {settings.split} has {len(reference)} images, and an evaluation needs at least "
            f"{MIN_IMAGES} real images to compare samples with: give more images, or set evaluation=off"
        )
    if "label_agreement" in settings.metrics and len(set(train.labels.tolist())) < 2:
        raise ValueError(
            "evaluation.metrics must not name label_agreement: the training images are all of one class, and it needs "
            "at least two"
        )


def _refuse_missing_logits(metrics: tuple[MetricName, ...], extractor: FeatureExtractor) -> None:
    if "inception_score" in metrics and not extractor.has_logits:
        raise ValueError(
            f"evaluation.metrics must not name inception_score with evaluation.features {extractor.name}, which does "
            "not classify images"
        )


def _refuse_outsized(count: int, extractor: FeatureExtractor) -> None:
    most = host_memory() / 2 / (BYTES_A_FEATURE * extractor.num_features)  # infinite where the system does not tell
    if count > most:
        raise ValueError(
            f"evaluation.num_samples must be at most {int(most):,}, got {count:,}: the "
            f"{extractor.num_features:,} features ({extractor.label}) of so many images do not fit into the "
            "memory of this machine"
        )


def _labels_like(source: ImageSource, count: int) -> list[int]:
    """Return class numbers as frequent as those of the images, in ascending order."""
    ordered = np.sort(source.labels)
    places = (np.arange(count) + 0.5) * len(ordered) / count
    return [int(label) for label in ordered[places.astype(np.int64)]]
