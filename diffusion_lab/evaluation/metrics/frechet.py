"""Fréchet distance between the normal distributions fitted to two sets of features, and its limit for many images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffusion_lab.evaluation.metrics.arrays import (
    CHUNK,
    Array,
    check_widths,
    checked_features,
    chunks,
    column_means,
    products,
)
from diffusion_lab.evaluation.metrics.estimate import Estimate, normal_estimate
from diffusion_lab.runtime.devices import use_threads
from diffusion_lab.runtime.seeds import derive_seed

LEAST_IMAGES = 2
POINTS = 15
"""Numbers of images between which FD∞ fits its line, as published."""

DELTA_METHOD = "normal interval by the delta method over the samples, with the reference as given"


@dataclass(frozen=True, eq=False)
class FittedNormal:
    """The normal distribution fitted to features: sample mean, and sample covariance as a factor of itself.

    Args:
        mean: ``(D,)``.
        factor: ``(K, D)``, K = min(N, D), with ``factor.T @ factor`` the sample covariance (divided by N − 1). It comes
            from the centred features themselves or their QR decomposition, never from the covariance, whose small
            eigenvalues are lost to rounding.
        count: The number of images N.
    """

    mean: Array
    factor: Array
    count: int

    @property
    def trace(self) -> float:
        """Trace of the covariance."""
        return float(np.square(self.factor).sum())

    @classmethod
    def of(cls, features: Tensor) -> FittedNormal:
        """Fit to features ``(N, D)`` of at least two images, 4,096 rows at a time."""
        count, size = features.shape
        mean = column_means(features)
        if count <= size:
            factor = features.double().numpy() - mean
        else:
            factor = np.zeros((0, size))
            for _, rows in chunks(features, max(CHUNK, 2 * size)):
                factor = _triangle(np.concatenate([factor, rows - mean]))
        return cls(mean, factor / math.sqrt(count - 1), count)


def frechet_distance(samples: Tensor, reference: Tensor | FittedNormal) -> float:
    """Return the squared Fréchet distance of the normal distributions fitted to two sets of features.

    ``‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2 (Σ₁ Σ₂)^½)`` (arXiv:1706.08500, equation 6), with sample covariances (divided by
    N − 1). With A and B factors of the covariances, the trace of the root is the sum of the singular values of
    ``A Bᵀ``.

    Args:
        samples: Features ``(N, D)``, N at least 2.
        reference: Features ``(M, D)``, M at least 2, or the normal distribution fitted to them.

    Raises:
        ValueError: There are fewer than two images, or features that do not fit together or are not finite.
    """
    samples, there = _checked(samples, reference)
    return distance(FittedNormal.of(samples), there)


def distance(first: FittedNormal, second: FittedNormal) -> float:
    """Return the squared Fréchet distance of two fitted normal distributions, at least 0."""
    shift = first.mean - second.mean
    with use_threads(1):  # LAPACK rounds differently with more
        roots = torch.linalg.svdvals(torch.from_numpy(products(first.factor, second.factor))).numpy()
    return max(0.0, float(np.square(shift).sum() + first.trace + second.trace - 2 * roots.sum()))


def frechet_estimate(samples: Tensor, reference: Tensor | FittedNormal) -> Estimate:
    """Return the Fréchet distance with an interval by the delta method.

    The standard error is that of the distance's linear approximation in the weights of the samples (their influence
    function): the gradient of the sum of singular values is known from the singular vectors. To draw images with
    replacement would be wrong here: repeated images shrink the covariance, and every resampled distance is too large.
    The interval is about the expected distance of *this many* samples; the bias of that is the matter of FD∞.
    """
    samples, there = _checked(samples, reference)
    here = FittedNormal.of(samples)
    return normal_estimate(distance(here, there), _standard_error(samples, here, there), DELTA_METHOD, low=0.0)


def _standard_error(samples: Tensor, here: FittedNormal, there: FittedNormal) -> float:
    """Standard error of the distance over the samples: the spread of the influence of each."""
    with use_threads(1):  # LAPACK rounds differently with more
        product = torch.from_numpy(products(here.factor, there.factor))
        _, roots, directions = (part.numpy() for part in torch.linalg.svd(product, full_matrices=False))
    kept = roots > 1e-10 * max(roots.max(initial=0.0), np.finfo(float).tiny)
    loadings = products(directions[kept], there.factor.T) / np.sqrt(roots[kept])[:, None]
    shift = here.mean - there.mean
    influence = [
        2 * (rows * shift).sum(axis=1) + np.square(rows).sum(axis=1) - np.square(products(rows, loadings)).sum(axis=1)
        for rows in (rows - here.mean for _, rows in chunks(samples))
    ]
    return float(np.concatenate(influence).std(ddof=1)) / math.sqrt(len(samples))


@dataclass(frozen=True)
class Extrapolation:
    """The Fréchet distance that infinitely many samples would have, by a line through that of fewer ones.

    Args:
        value: Where the line meets 1/n = 0; may lie a little below 0 for sets that do not differ.
        low: Lower end of the 95 % confidence interval.
        high: Upper end.
        standard_error: Of ``value``: that of the distance of all samples and that of the line, as independent errors.
        slope: By how much the distance grows with 1/n.
        points: The numbers of samples with the distance of each.
        method: How value and interval were made, in words.
        reliable: Whether every point has more samples than features: with fewer the bias is no line in 1/n.
    """

    value: float
    low: float
    high: float
    standard_error: float
    slope: float
    points: tuple[tuple[int, float], ...]
    method: str
    reliable: bool


def frechet_distance_infinity(
    samples: Tensor, reference: Tensor | FittedNormal, *, seed: int = 0, plain: Estimate | None = None
) -> Extrapolation:
    """Extrapolate the Fréchet distance to infinitely many samples (arXiv:1911.07023, FID∞).

    The expected distance of n samples exceeds its limit by a term that is linear in 1/n. It is computed for 15 numbers
    of samples, each time from others chosen at random without replacement, and a line is fitted by least squares. The
    numbers are spread evenly from max(n/10, 2 D), but no more than n/2, to n; for 50,000 images and Inception's
    2,048 features that is about the published 5,000. The bias from the number of *reference* images remains.

    Args:
        samples: Features ``(N, D)``, N at least 20.
        reference: Features ``(M, D)``, or the normal distribution fitted to them.
        seed: Which samples are chosen.
        plain: The distance of all samples where it is known already.
    """
    samples, there = _checked(samples, reference, least=20)
    plain = plain or frechet_estimate(samples, there)
    counts = _counts(*samples.shape)
    generator = np.random.default_rng(derive_seed("FD infinity", seed))
    distances = [_distance_of_some(samples, int(count), there, generator) for count in counts[:-1]] + [plain.value]
    line = _line(1 / counts, np.array(distances))
    error = math.hypot(plain.standard_error or 0.0, line[2])
    normal = normal_estimate(line[0], error, "")
    return Extrapolation(
        value=line[0],
        low=normal.low or 0.0,
        high=normal.high or 0.0,
        standard_error=error,
        slope=line[1],
        points=tuple(zip(counts.tolist(), distances, strict=True)),
        method=f"line in 1/n through {len(counts)} numbers of samples; interval from the error of the distance of all "
        "samples and that of the line",
        reliable=bool(counts[0] > samples.shape[1]),
    )


def _counts(number: int, size: int) -> Array:
    first = min(max(number // 10, 2 * size), number // 2)
    return np.linspace(first, number, POINTS).astype(np.int64)


def _distance_of_some(samples: Tensor, count: int, there: FittedNormal, generator: np.random.Generator) -> float:
    chosen = np.sort(generator.choice(len(samples), count, replace=False))
    return distance(FittedNormal.of(samples[torch.from_numpy(chosen)]), there)


def _line(x: Array, y: Array) -> tuple[float, float, float]:
    """Intercept and slope by least squares, and the intercept's standard error from the residuals."""
    away = x - x.mean()
    slope = float((away * y).sum() / np.square(away).sum())
    intercept = float(y.mean() - slope * x.mean())
    variance = float(np.square(y - intercept - slope * x).sum()) / (len(x) - 2)
    return intercept, slope, math.sqrt(variance * (1 / len(x) + float(x.mean()) ** 2 / float(np.square(away).sum())))


def _triangle(rows: Array) -> Array:
    """Return R of the QR decomposition ``(min(N, D), D)``, whose square is that of the rows."""
    with use_threads(1):  # LAPACK rounds differently with more
        factor: Array = torch.linalg.qr(torch.from_numpy(rows), mode="r").R.numpy()
    return factor


def _checked(
    samples: Tensor, reference: Tensor | FittedNormal, least: int = LEAST_IMAGES
) -> tuple[Tensor, FittedNormal]:
    """The samples, checked, and the normal distribution of the reference."""
    samples = checked_features(samples, "samples", least=least)
    there = (
        reference
        if isinstance(reference, FittedNormal)
        else FittedNormal.of(checked_features(reference, "reference", least=LEAST_IMAGES))
    )
    check_widths(samples.shape[1], len(there.mean))
    return samples, there
