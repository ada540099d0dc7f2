"""Null rows: each metric for real images in place of samples, which shows the value of perfect samples."""

from __future__ import annotations

from dataclasses import dataclass, replace

from diffusion_lab.evaluation.families import FAMILIES, count_images, count_reference_images
from diffusion_lab.evaluation.measurement import NullRow
from diffusion_lab.evaluation.real_images import RealImages, labelled_subset, random_halves, random_subset
from diffusion_lab.features.feature_set import FeatureSet
from diffusion_lab.metric_names import MIN_IMAGES

HELD_OUT = "held-out images against the same reference"
HALVES = "two halves of the reference images"
HELD_OUT_HALVES = "two halves of the held-out images, against the same training images"


@dataclass(frozen=True, eq=False)
class NullComparison:
    """Real images in place of samples, and the images that they are compared with.

    Args:
        images: Images in place of the samples.
        real: Images in place of the reference.
        source: Description of these images.
        same_conditions: Whether the number of images and the reference equal those of the samples, so that the row of
            the samples is comparable with the null row.
    """

    images: FeatureSet
    real: RealImages
    source: str
    same_conditions: bool = False


def null_comparison(family: str, count: int, real: RealImages) -> NullComparison | None:
    """Choose the images that a metric's null row is computed from; None if there are too few real images.

    Held-out images are compared with the same reference if there are as many as samples, else one half of the
    reference with the other. Label agreement does not depend on the number of images, so fewer held-out images are
    used as well: halves of the reference would be too good for features that were learned from its labels.
    Memorization needs unseen images itself, so one half of the held-out images is evaluated with the other half as
    held-out images; else one half of the reference is compared with the other as training images.

    Args:
        family: The metric.
        count: Number of samples.
        real: The real images.
    """
    if family == "memorization":
        return _unseen_halves(count, real) or _reference_halves(count, replace(real, train=None))
    held_out = real.held_out
    if family == "label_agreement":
        held_out, min_images = labelled_subset(held_out), MIN_IMAGES
    else:
        min_images = count
    if held_out is not None and len(held_out) >= min_images:
        images = random_subset(held_out, count, real.seed, "null row")
        return NullComparison(images, real, HELD_OUT, same_conditions=True)
    return _reference_halves(count, real)


def compute_null_rows(family: str, null: NullComparison, matched: FeatureSet) -> dict[str, NullRow]:
    """Return the null row of each value of a metric, without FD∞.

    Args:
        family: The metric.
        null: Images in place of samples and reference.
        matched: As many samples as there are images in place of them.
    """
    values = FAMILIES[family](null.images, null.real)
    matched_values = {} if null.same_conditions else FAMILIES[family](matched, null.real)
    return {
        metric: NullRow(
            estimate=estimate,
            n=count_images(family, null.images),
            reference_n=count_reference_images(family, null.real),
            source=null.source,
            matched=matched_values.get(metric),
        )
        for metric, estimate in values.items()
    }


def matched_samples(family: str, samples: FeatureSet, null: NullComparison) -> FeatureSet:
    """Return as many of the samples that a metric is computed from as there are real images in their place."""
    known = labelled_subset(samples) if family == "label_agreement" else None
    images = samples if known is None else known
    return random_subset(images, len(null.images), null.real.seed, "samples beside the null row")


def _reference_halves(count: int, real: RealImages) -> NullComparison | None:
    first, second = random_halves(real.reference, real.seed)
    if len(first) < MIN_IMAGES:
        return None
    images = random_subset(first, count, real.seed, "null row")
    return NullComparison(images, RealImages(second, None, real.train, real.seed), HALVES)


def _unseen_halves(count: int, real: RealImages) -> NullComparison | None:
    unseen = real.memorization_baseline
    if unseen is None or len(unseen) < 2 * MIN_IMAGES:
        return None
    first, second = random_halves(unseen, real.seed)
    images = random_subset(first, count, real.seed, "null row")
    return NullComparison(images, RealImages(real.seen_images, second, None, real.seed), HELD_OUT_HALVES)
