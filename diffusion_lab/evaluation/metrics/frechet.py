"""Fréchet distance of the normal distributions fitted to two sets of features, and its limit for many images."""

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

MIN_IMAGES = 2
POINTS = 15
"""Number of sample sizes to which FD∞ fits its line, as published."""

DELTA_METHOD = "normal interval by the delta method over the samples, with the reference as given"


@dataclass(frozen=True, eq=False)
class FittedNormal:
    """Normal distribution fitted to features: sample mean, and a factor of the sample covariance.

    Args:
        mean: ``(D,)``.
        factor: ``(K, D)``, K = min(N, D), with ``factor.T @ factor`` the sample covariance (divided by N − 1). It is
            computed from the centred features or their QR decomposition, never from the covariance, whose small
            eigenvalues are lost to rounding.
        count: Number of images N.
    """

    mean: Array
    factor: Array
    count: int

    @property
    def trace(self) -> float:
        """Trace of the covariance."""
        return float(np.square(self.factor).sum())

    @classmethod
    def fit(cls, features: Tensor) -> FittedNormal:
        """Fit to features ``(N, D)`` of at least two images, 4,096 rows at a time."""
        count, size = features.shape
        mean = column_means(features)
        if count <= size:
            factor = features.double().numpy() - mean
        else:
            factor = np.zeros((0, size))
            for _, rows in chunks(features, max(CHUNK, 2 * size)):
                factor = _qr_factor(np.concatenate([factor, rows - mean]))
        return cls(mean, factor / math.sqrt(count - 1), count)


def frechet_distance(samples: Tensor, reference: Tensor | FittedNormal) -> float:
    """Return the squared Fréchet distance of the normal distributions fitted to two sets of features.

    ``‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2 (Σ₁ Σ₂)^½)`` (arXiv:1706.08500, equation 6), with sample covariances (divided by
    N − 1). If A and B are factors of the covariances, the trace of the square root is the sum of the singular values
    of ``A Bᵀ``.

    Args:
        samples: Features ``(N, D)``, N at least 2.
        reference: Features ``(M, D)``, M at least 2, or the normal distribution fitted to them.

    Raises:
        ValueError: There are fewer than two images, the numbers of features differ, or features are not finite.
    """
    samples, reference_normal = _checked(samples, reference)
    return normal_distance(FittedNormal.fit(samples), reference_normal)


def normal_distance(first: FittedNormal, second: FittedNormal) -> float:
    """Return the squared Fréchet distance of two fitted normal distributions, at least 0."""
    shift = first.mean - second.mean
    with use_threads(1):  # LAPACK rounds differently with more threads
        roots = torch.linalg.svdvals(torch.from_numpy(products(first.factor, second.factor))).numpy()
    return max(0.0, float(np.square(shift).sum() + first.trace + second.trace - 2 * roots.sum()))


def frechet_estimate(samples: Tensor, reference: Tensor | FittedNormal) -> Estimate:
    """Return the Fréchet distance with an interval by the delta method.

    The standard error is that of the distance's linear approximation in the weights of the samples (their influence
    function): the singular vectors give the gradient of the sum of singular values. Bootstrapping would be wrong:
    repeated images shrink the covariance, and every resampled distance is too large. The interval covers the expected
    distance of *this number* of samples; FD∞ deals with its bias.
    """
    samples, reference_normal = _checked(samples, reference)
    sample_normal = FittedNormal.fit(samples)
    return normal_estimate(
        normal_distance(sample_normal, reference_normal),
        _standard_error(samples, sample_normal, reference_normal),
        DELTA_METHOD,
        low=0.0,
    )


def _standard_error(samples: Tensor, sample_normal: FittedNormal, reference_normal: FittedNormal) -> float:
    """Return the standard error of the distance over the samples: the spread of their influences."""
    with use_threads(1):  # LAPACK rounds differently with more threads
        product = torch.from_numpy(products(sample_normal.factor, reference_normal.factor))
        _, roots, directions = (part.numpy() for part in torch.linalg.svd(product, full_matrices=False))
    nonzero = roots > 1e-10 * max(roots.max(initial=0.0), np.finfo(float).tiny)
    loadings = products(directions[nonzero], reference_normal.factor.T) / np.sqrt(roots[nonzero])[:, None]
    shift = sample_normal.mean - reference_normal.mean
    influence = [
        2 * (rows * shift).sum(axis=1) + np.square(rows).sum(axis=1) - np.square(products(rows, loadings)).sum(axis=1)
        for rows in (rows - sample_normal.mean for _, rows in chunks(samples))
    ]
    return float(np.concatenate(influence).std(ddof=1)) / math.sqrt(len(samples))


@dataclass(frozen=True)
class Extrapolation:
    """Fréchet distance extrapolated to infinitely many samples by a line through the distances of subsets.

    Args:
        value: Intercept of the line at 1/n = 0; may lie slightly below 0 for sets that do not differ.
        low: Lower end of the 95 % confidence interval.
        high: Upper end.
        standard_error: Standard error of ``value``: that of the distance of all samples and that of the line, combined
            as independent errors.
        slope: Slope of the distance in 1/n.
        points: Numbers of samples, each with its distance.
        method: Description of how value and interval were computed.
        reliable: Whether every point has more samples than features: with fewer, the bias is not linear in 1/n.
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
    samples: Tensor, reference: Tensor | FittedNormal, *, seed: int = 0, estimate: Estimate | None = None
) -> Extrapolation:
    """Extrapolate the Fréchet distance to infinitely many samples (arXiv:1911.07023, FID∞).

    The expected distance of n samples exceeds its limit by a term that is linear in 1/n. It is computed for 15 numbers
    of samples, each time on a new random subset drawn without replacement, and a line is fitted by least squares. The
    numbers are spaced evenly from max(n/10, 2 D), but at most n/2, to n; for 50,000 images and Inception's 2,048
    features the smallest is about the published 5,000. The bias from the number of *reference* images remains.

    Args:
        samples: Features ``(N, D)``, N at least 20.
        reference: Features ``(M, D)``, or the normal distribution fitted to them.
        seed: Seed of the random subsets.
        estimate: Distance of all samples, if already computed.
    """
    samples, reference_normal = _checked(samples, reference, min_images=20)
    estimate = estimate or frechet_estimate(samples, reference_normal)
    counts = _subset_sizes(*samples.shape)
    generator = np.random.default_rng(derive_seed("FD infinity", seed))
    distances = [_subset_distance(samples, int(count), reference_normal, generator) for count in counts[:-1]]
    distances.append(estimate.value)
    intercept, slope, line_error = _fit_line(1 / counts, np.array(distances))
    error = math.hypot(estimate.standard_error or 0.0, line_error)
    normal = normal_estimate(intercept, error, "")
    return Extrapolation(
        value=intercept,
        low=normal.low or 0.0,
        high=normal.high or 0.0,
        standard_error=error,
        slope=slope,
        points=tuple(zip(counts.tolist(), distances, strict=True)),
        method=f"line in 1/n through {len(counts)} numbers of samples; interval from the error of the distance of all "
        "samples and that of the line",
        reliable=bool(counts[0] > samples.shape[1]),
    )


def _subset_sizes(num_samples: int, num_features: int) -> Array:
    first = min(max(num_samples // 10, 2 * num_features), num_samples // 2)
    return np.linspace(first, num_samples, POINTS).astype(np.int64)


def _subset_distance(samples: Tensor, count: int, reference: FittedNormal, generator: np.random.Generator) -> float:
    chosen = np.sort(generator.choice(len(samples), count, replace=False))
    return normal_distance(FittedNormal.fit(samples[torch.from_numpy(chosen)]), reference)


def _fit_line(x: Array, y: Array) -> tuple[float, float, float]:
    """Return intercept and slope by least squares, and the intercept's standard error from the residuals."""
    centred = x - x.mean()
    slope = float((centred * y).sum() / np.square(centred).sum())
    intercept = float(y.mean() - slope * x.mean())
    variance = float(np.square(y - intercept - slope * x).sum()) / (len(x) - 2)
    return intercept, slope, math.sqrt(variance * (1 / len(x) + float(x.mean()) ** 2 / float(np.square(centred).sum())))


def _qr_factor(rows: Array) -> Array:
    """Return R of the QR decomposition ``(min(N, D), D)``: ``R.T @ R`` equals ``rows.T @ rows``."""
    with use_threads(1):  # LAPACK rounds differently with more threads
        factor: Array = torch.linalg.qr(torch.from_numpy(rows), mode="r").R.numpy()
    return factor


def _checked(
    samples: Tensor, reference: Tensor | FittedNormal, min_images: int = MIN_IMAGES
) -> tuple[Tensor, FittedNormal]:
    """Return the checked samples, and the normal distribution of the reference."""
    samples = checked_features(samples, "samples", min_images=min_images)
    reference_normal = (
        reference
        if isinstance(reference, FittedNormal)
        else FittedNormal.fit(checked_features(reference, "reference", min_images=MIN_IMAGES))
    )
    check_widths(samples.shape[1], len(reference_normal.mean))
    return samples, reference_normal
