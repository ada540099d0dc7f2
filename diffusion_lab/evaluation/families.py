"""Registry of the metrics by their names in the settings: computation, requirements and names of the values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from diffusion_lab.evaluation.metrics import (
    Estimate,
    Memorization,
    density_coverage,
    frechet_distance,
    frechet_estimate,
    inception_score,
    kernel_distance,
    precision_recall,
)
from diffusion_lab.evaluation.metrics.memorization import compare_distances
from diffusion_lab.evaluation.real_images import RealImages, labelled_subset
from diffusion_lab.features.feature_set import FeatureSet

Values = dict[str, Estimate]
Family = Callable[[FeatureSet, RealImages], Values]

NEIGHBOURS = {"precision_recall": 3, "density_coverage": 5}
"""Number k of the nearest neighbour that determines the radii of balls, as published."""

BETTER: Mapping[str, Literal["lower", "higher"]] = {
    "fd": "lower",
    "kid": "lower",
    "is": "higher",
    "precision": "higher",
    "recall": "higher",
    "density": "higher",
    "coverage": "higher",
    "label_agreement": "higher",
    "memorization": "lower",
    "memorization_nearer": "lower",
}


def _fd(samples: FeatureSet, real: RealImages) -> Values:
    return {"fd": frechet_estimate(samples.values, real.normal)}


def _fd_without_interval(samples: FeatureSet, real: RealImages) -> Values:
    """Compute the Fréchet distance without its interval, which takes longer than the distance."""
    return {"fd": Estimate(frechet_distance(samples.values, real.normal))}


def _kid(samples: FeatureSet, real: RealImages) -> Values:
    return {
        "kid": kernel_distance(
            samples.values, real.reference.values, seed=real.seed, reference_sums=real.kernel_sums(len(samples))
        )
    }


def _inception_score(samples: FeatureSet, real: RealImages) -> Values:
    assert samples.logits is not None  # checked by reason_not_applicable()
    return {"is": inception_score(samples.logits, seed=real.seed)}


def _precision_recall(samples: FeatureSet, real: RealImages) -> Values:
    k = NEIGHBOURS["precision_recall"]
    return precision_recall(samples.values, real.reference.values, k=k, reference_radii=real.radii(k))._asdict()


def _density_coverage(samples: FeatureSet, real: RealImages) -> Values:
    k = NEIGHBOURS["density_coverage"]
    return density_coverage(samples.values, real.reference.values, k=k, reference_radii=real.radii(k))._asdict()


def _label_agreement(samples: FeatureSet, real: RealImages) -> Values:
    assert samples.labels is not None  # checked by reason_not_applicable()
    known = samples.labels >= 0
    return {"label_agreement": real.classifier.agreement(samples.values[known], samples.labels[known]).overall}


def _memorization(samples: FeatureSet, real: RealImages) -> Values:
    return memorization_values(compare_distances(real.nearest(samples), real.unseen))


def memorization_values(memorization: Memorization) -> Values:
    """Return the values of memorization that become rows."""
    return {"memorization": memorization.share, "memorization_nearer": memorization.nearer}


FAMILIES: Mapping[str, Family] = {
    "fd": _fd,
    "kid": _kid,
    "inception_score": _inception_score,
    "precision_recall": _precision_recall,
    "density_coverage": _density_coverage,
    "label_agreement": _label_agreement,
    "memorization": _memorization,
}
QUICK: Mapping[str, Family] = {**FAMILIES, "fd": _fd_without_interval}


def reason_not_applicable(family: str, samples: FeatureSet, real: RealImages) -> str | None:
    """Return why a metric does not apply to these images; None if it does."""
    if family == "inception_score" and samples.logits is None:
        return f"the features {samples.extractor} have no logits of a classifier"
    if family != "label_agreement":
        return None
    train = real.training_images
    if train.labels is None or len(train.labels[train.labels >= 0].unique()) < 2:
        return "the real images have no labels of at least two classes"
    if samples.labels is None or not bool((samples.labels >= 0).any()):
        return "the samples have no labels" if samples.labels is None else "no sample is of a class of the real images"
    if labelled_subset(real.unseen_images) is None and int(train.labels[train.labels >= 0].bincount().max()) < 5:
        return "no class has at least 5 real images, one of which can be held out to evaluate the classifier"
    return None


def count_images(family: str, images: FeatureSet) -> int:
    """Return the number of images that a metric is computed from."""
    known = labelled_subset(images) if family == "label_agreement" else images
    return 0 if known is None else len(known)


def count_reference_images(family: str, real: RealImages) -> int:
    """Return the number of real images that a metric compares with; 0 if it needs none."""
    if family == "inception_score":
        return 0
    if family == "memorization":
        return len(real.seen_images)
    return len(real.training_images if family == "label_agreement" else real.reference)


def full_name(metric: str, extractor: str) -> str:
    """Return the name of a metric with its features: ``fd_efflite0@96``; ``fid``, ``kid`` and ``is`` for Inception."""
    if extractor.partition("@")[0] == "inception":
        established = {"fd": "fid", "kid": "kid", "is": "is"}
        if metric in established:
            return established[metric]
    return f"{metric}_{extractor}"
