"""Measurement of a set of samples: every metric with its interval, its null row and its values by class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from diffusion_lab.evaluation.families import FAMILIES
from diffusion_lab.evaluation.measurement import Measurement
from diffusion_lab.evaluation.real_images import RealImages
from diffusion_lab.evaluation.rows import RowBuilder
from diffusion_lab.features.feature_set import FeatureSet
from diffusion_lab.metric_names import DEFAULT_METRICS, MIN_IMAGES


def measure(
    samples: FeatureSet,
    reference: FeatureSet | RealImages,
    *,
    held_out: FeatureSet | None = None,
    train: FeatureSet | None = None,
    metrics: Sequence[str] = DEFAULT_METRICS,
    seed: int = 0,
    split: str | None = None,
    thorough: bool = True,
    progress: Callable[[str], None] | None = None,
) -> Measurement:
    """Measure samples against real images, in feature space.

    Args:
        samples: Features of at least 20 samples.
        reference: Features of at least 20 real images to compare with; or :class:`RealImages`, which caches what is
            computed from them for further sets of samples.
        held_out: Other real images of the same kind that the model was not trained on, for null rows, memorization and
            the accuracy of the classifier. Without them, halves of the reference are used.
        train: Images that the model was trained on, if those are not ``reference``, which is then, for example, the
            validation images: for memorization and the classifier.
        metrics: Names of metrics, keys of ``FAMILIES``. Those that do not apply are listed in ``Measurement.skipped``.
        seed: Seed of subsets, halves and the classifier.
        split: Name of the reference, recorded in the result.
        thorough: Whether to compute null rows, values by class, FD∞ and the interval of the Fréchet distance.
        progress: Called with the name of each metric before it is computed.

    Raises:
        ValueError: There are too few images, the sets have different kinds of features, or a metric is unknown.
    """
    if isinstance(reference, RealImages) and (held_out is not None or train is not None):
        raise ValueError("held_out and train must be None if reference is RealImages, which contains them")
    real = reference if isinstance(reference, RealImages) else RealImages(reference, held_out, train, seed)
    _check(samples, real, metrics)
    rows = RowBuilder(real if real.seed == seed else replace(real, seed=seed), samples, thorough)
    for family in metrics:
        if progress is not None:
            progress(family)
        rows.add(family)
    return _measurement(rows, split)


def _measurement(builder: RowBuilder, split: str | None) -> Measurement:
    real, samples = builder.real, builder.samples
    return Measurement(
        rows=tuple(builder.rows),
        skipped=builder.skipped,
        notes=tuple(builder.notes),
        n=len(samples),
        reference_n=len(real.reference),
        held_out_n=0 if real.held_out is None else len(real.held_out),
        extractor=samples.extractor,
        extractor_fingerprint=samples.extractor_fingerprint,
        num_features=samples.values.shape[1],
        data_fingerprint=real.reference.data_fingerprint,
        held_out_fingerprint=None if real.held_out is None else real.held_out.data_fingerprint,
        samples_fingerprint=samples.data_fingerprint,
        split=split,
        seed=real.seed,
        memorization=builder.memorization,
        classifier_accuracy=builder.classifier_accuracy,
    )


def _check(samples: FeatureSet, real: RealImages, metrics: Sequence[str]) -> None:
    unknown = [name for name in metrics if name not in FAMILIES]
    if unknown:
        raise ValueError(f"metrics must be among {', '.join(FAMILIES)}, got {', '.join(map(repr, unknown))}")
    sets = {"samples": samples, "reference": real.reference, "held_out": real.held_out, "train": real.train}
    sets["seen"] = real.seen
    for name, images in sets.items():
        if images is None:
            continue
        if len(images) < MIN_IMAGES and name != "held_out":
            raise ValueError(
                f"{name} must be at least {MIN_IMAGES} images, got {len(images)}: metrics of fewer are meaningless"
            )
        if (images.extractor, images.extractor_fingerprint) != (samples.extractor, samples.extractor_fingerprint):
            raise ValueError(
                f"{name} must have the features of the samples, {samples.extractor} "
                f"({samples.extractor_fingerprint[:12]}), got {images.extractor} ({images.extractor_fingerprint[:12]})"
            )
