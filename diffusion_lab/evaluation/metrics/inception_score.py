"""Inception Score: confidence of a classifier on each image, and diversity of its predictions."""

from __future__ import annotations

import itertools

import numpy as np
from scipy import special
from torch import Tensor

from diffusion_lab.evaluation.metrics.arrays import Array, checked_features
from diffusion_lab.evaluation.metrics.estimate import Estimate, mean_estimate
from diffusion_lab.runtime.seeds import derive_seed


def inception_score(logits: Tensor, *, splits: int = 10, seed: int = 0) -> Estimate:
    """Return the Inception Score (arXiv:1606.03498): exp of the mean of KL(p(y|x) ‖ p(y)), as a mean over splits.

    The score lies between 1 and the number of classes. The images are shuffled and divided into ``splits`` disjoint
    parts, so the t interval over the scores of the parts is valid. The score is biased low for few images: it is that
    of N / splits images.

    Args:
        logits: Logits of a classifier, ``(N, K)``, N at least 2 × splits.
        splits: Number of parts, at least 2.
        seed: Seed of the shuffling.

    Raises:
        ValueError: There are too few images or splits, or the logits are not finite.
    """
    if splits < 2:
        raise ValueError(f"splits must be at least 2, got {splits}")
    logits = checked_features(logits, "logits", min_images=2 * splits)
    order = np.random.default_rng(derive_seed("inception score", seed)).permutation(len(logits))
    shuffled = logits.numpy()[order]
    bounds = [part * len(logits) // splits for part in range(splits + 1)]
    scores = [_score(shuffled[start:end].astype(np.float64)) for start, end in itertools.pairwise(bounds)]
    return mean_estimate(scores, f"mean of {splits} disjoint parts of the samples; t interval over the parts")


def _score(logits: Array) -> float:
    probabilities = special.softmax(logits, axis=1)
    # If a class has probability 0 for every image, the logarithm of its mean is −∞ and its term 0.
    terms = special.xlogy(probabilities, probabilities.mean(axis=0))
    divergence = (probabilities * special.log_softmax(logits, axis=1) - terms).sum(axis=1).mean()
    return float(np.exp(divergence))
