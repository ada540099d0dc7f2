"""Inception Score: how sure a classifier is of each image, and how different its answers are."""

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

    Between 1 and the number of classes. The images are put into random order and cut into ``splits`` parts; each has a
    score of its own. The parts share no image, so Student's interval over them is valid. The score of few images is
    too low: it is that of N / splits images.

    Args:
        logits: Of a classifier, ``(N, K)``, N at least 2 × splits.
        splits: How many parts, at least 2.
        seed: In which order the images are cut.

    Raises:
        ValueError: There are too few images or splits, or logits that are not finite.
    """
    if splits < 2:
        raise ValueError(f"splits must be at least 2, got {splits}")
    logits = checked_features(logits, "logits", least=2 * splits)
    order = np.random.default_rng(derive_seed("inception score", seed)).permutation(len(logits))
    shuffled = logits.numpy()[order]
    bounds = [part * len(logits) // splits for part in range(splits + 1)]
    scores = [_score(shuffled[start:end].astype(np.float64)) for start, end in itertools.pairwise(bounds)]
    return mean_estimate(scores, f"mean of {splits} disjoint parts of the samples; Student's interval over the parts")


def _score(logits: Array) -> float:
    shares = special.softmax(logits, axis=1)
    # Where a class has no share in any image, the logarithm of its mean is −∞ and its term 0.
    terms = special.xlogy(shares, shares.mean(axis=0))
    divergence = (shares * special.log_softmax(logits, axis=1) - terms).sum(axis=1).mean()
    return float(np.exp(divergence))
