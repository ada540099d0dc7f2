"""The metrics by the names under which they are asked for: what each computes, needs and is called."""

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
from diffusion_lab.evaluation.metrics.memorization import judge
from diffusion_lab.evaluation.real_images import RealImages, labelled
from diffusion_lab.features.feature_set import FeatureSet

Values = dict[str, Estimate]
Family = Callable[[FeatureSet, RealImages], Values]

BALLS = {"precision_recall": 3, "density_coverage": 5}
"""Which nearest neighbour balls reach to, as published."""

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


def _fd_alone(samples: FeatureSet, real: RealImages) -> Values:
    """Without the interval, which takes longer than the distance."""
    return {"fd": Estimate(frechet_distance(samples.values, real.normal))}


def _kid(samples: FeatureSet, real: RealImages) -> Values:
    return {
        "kid": kernel_distance(
            samples.values, real.reference.values, seed=real.seed, reference_sums=real.kernel_sums(len(samples))
        )
    }


def _inception_score(samples: FeatureSet, real: RealImages) -> Values:
    assert samples.logits is not None  # asked for by missing()
    return {"is": inception_score(samples.logits, seed=real.seed)}


def _precision_recall(samples: FeatureSet, real: RealImages) -> Values:
    k = BALLS["precision_recall"]
    return precision_recall(samples.values, real.reference.values, k=k, reference_radii=real.radii(k))._asdict()


def _density_coverage(samples: FeatureSet, real: RealImages) -> Values:
    k = BALLS["density_coverage"]
    return density_coverage(samples.values, real.reference.values, k=k, reference_radii=real.radii(k))._asdict()


def _label_agreement(samples: FeatureSet, real: RealImages) -> Values:
    assert samples.labels is not None  # asked for by missing()
    known = samples.labels >= 0
    return {"label_agreement": real.classifier.agreement(samples.values[known], samples.labels[known]).overall}


def _memorization(samples: FeatureSet, real: RealImages) -> Values:
    return memorization_values(judge(real.nearest(samples), real.unseen))


def memorization_values(found: Memorization) -> Values:
    """Return the numbers of it that become rows."""
    return {"memorization": found.share, "memorization_nearer": found.nearer}


FAMILIES: Mapping[str, Family] = {
    "fd": _fd,
    "kid": _kid,
    "inception_score": _inception_score,
    "precision_recall": _precision_recall,
    "density_coverage": _density_coverage,
    "label_agreement": _label_agreement,
    "memorization": _memorization,
}
QUICK: Mapping[str, Family] = {**FAMILIES, "fd": _fd_alone}


def missing(family: str, samples: FeatureSet, real: RealImages) -> str | None:
    """Return why a metric does not apply to these images; None where it does."""
    if family == "inception_score" and samples.logits is None:
        return f"the features {samples.extractor} come without the answers of a classifier (logits)"
    if family != "label_agreement":
        return None
    train = real.training_images
    if train.labels is None or len(train.labels[train.labels >= 0].unique()) < 2:
        return "the real images have no labels of at least two classes"
    if samples.labels is None or not bool((samples.labels >= 0).any()):
        return "the samples have no labels" if samples.labels is None else "no sample is of a class of the real images"
    if labelled(real.unseen_images) is None and int(train.labels[train.labels >= 0].bincount().max()) < 5:
        return "no class has at least 5 real images, of which one can be kept to check the classifier"
    return None


def number_of(family: str, images: FeatureSet) -> int:
    """Return how many of some images a metric is computed from."""
    known = labelled(images) if family == "label_agreement" else images
    return 0 if known is None else len(known)


def reference_number_of(family: str, real: RealImages) -> int:
    """Return how many real images a metric compares with; 0 where it needs none."""
    if family == "inception_score":
        return 0
    if family == "memorization":
        return len(real.seen_images)
    return len(real.training_images if family == "label_agreement" else real.reference)


def full_name(metric: str, extractor: str) -> str:
    """Return the name of a metric with its features: ``fd_efflite0@96``; FID, KID and IS are Inception's alone."""
    if extractor.partition("@")[0] == "inception":
        alone = {"fd": "fid", "kid": "kid", "is": "is"}
        if metric in alone:
            return alone[metric]
    return f"{metric}_{extractor}"
