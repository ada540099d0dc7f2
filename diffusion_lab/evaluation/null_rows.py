"""Null rows: every metric of real images against real images, which says what perfect samples would have."""

from __future__ import annotations

from dataclasses import dataclass, replace

from diffusion_lab.config.evaluation_section import MIN_IMAGES
from diffusion_lab.evaluation.families import FAMILIES, number_of, reference_number_of
from diffusion_lab.evaluation.measurement import NullRow
from diffusion_lab.evaluation.real_images import RealImages, halves, labelled, some_of
from diffusion_lab.features.feature_set import FeatureSet

HELD_OUT = "held-out images against the same reference"
HALVES = "two halves of the reference images"
HELD_OUT_HALVES = "two halves of the held-out images, against the same training images"


@dataclass(frozen=True, eq=False)
class Null:
    """Real images in the place of samples, and what they are compared with.

    Args:
        images: In the place of the samples.
        real: In the place of the reference.
        source: Which images these are, in words.
        as_given: Whether number and reference are those of the samples, whose own row then compares with this one.
    """

    images: FeatureSet
    real: RealImages
    source: str
    as_given: bool = False


def compute_null(family: str, count: int, real: RealImages) -> Null | None:
    """Return what a metric's null row is computed from; None where there are too few real images.

    Held-out images against the same reference where there are as many as samples, else one half of the reference
    against the other. A label agreement does not depend on the number of images, so fewer held-out ones serve as well:
    features that were themselves learnt from the reference know its labels. For memorization, which needs unseen images
    itself, one half of the held-out images, beside the other; else one half of the reference against the other as
    training images.
    """
    if family == "memorization":
        return _unseen_halves(count, real) or _reference_halves(count, replace(real, train=None))
    held_out = real.held_out
    if family == "label_agreement":
        held_out, least = labelled(held_out), MIN_IMAGES
    else:
        least = count
    if held_out is not None and len(held_out) >= least:
        return Null(some_of(held_out, count, real.seed, "null row"), real, HELD_OUT, as_given=True)
    return _reference_halves(count, real)


def null_rows_of(family: str, null: Null, as_many: FeatureSet) -> dict[str, NullRow]:
    """Return the null row of each number of a metric, without FD∞.

    Args:
        family: The metric.
        null: What takes the place of samples and reference.
        as_many: Samples, as many as that has images.
    """
    found = FAMILIES[family](null.images, null.real)
    matched = {} if null.as_given else FAMILIES[family](as_many, null.real)
    return {
        metric: NullRow(
            estimate=estimate,
            n=number_of(family, null.images),
            reference_n=reference_number_of(family, null.real),
            source=null.source,
            matched=matched.get(metric),
        )
        for metric, estimate in found.items()
    }


def as_many_samples(family: str, samples: FeatureSet, null: Null) -> FeatureSet:
    """Return as many of the samples that a metric is computed from as there are real images in their place."""
    known = labelled(samples) if family == "label_agreement" else None
    return some_of(samples if known is None else known, len(null.images), null.real.seed, "samples beside the null row")


def _reference_halves(count: int, real: RealImages) -> Null | None:
    first, second = halves(real.reference, real.seed)
    if len(first) < MIN_IMAGES:
        return None
    images = some_of(first, count, real.seed, "null row")
    return Null(images, RealImages(second, None, real.train, real.seed), HALVES)


def _unseen_halves(count: int, real: RealImages) -> Null | None:
    unseen = real.new_images
    if unseen is None or len(unseen) < 2 * MIN_IMAGES:
        return None
    first, second = halves(unseen, real.seed)
    images = some_of(first, count, real.seed, "null row")
    return Null(images, RealImages(real.seen_images, second, None, real.seed), HELD_OUT_HALVES)
