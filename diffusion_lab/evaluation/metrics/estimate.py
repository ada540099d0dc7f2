"""Estimates with confidence intervals, by three methods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """Number computed from a sample of images, with its confidence interval.

    Args:
        value: The number.
        low: Lower end of the 95 % confidence interval; None if no interval was computed.
        high: Upper end.
        standard_error: Standard deviation of ``value`` over repeated samples; None if it was not computed.
        method: Description of how the interval was computed; empty without one.
    """

    value: float
    low: float | None = None
    high: float | None = None
    standard_error: float | None = None
    method: str = ""


def normal_estimate(
    value: float, standard_error: float, method: str, *, low: float = -math.inf, high: float = math.inf
) -> Estimate:
    """Return ``value`` ± 1.96 standard errors, clipped to [``low``, ``high``], the range of the number."""
    half = float(stats.norm.ppf((1 + CONFIDENCE) / 2)) * standard_error
    return Estimate(value, max(low, value - half), min(high, value + half), standard_error, method)


def mean_estimate(values: Sequence[float], method: str) -> Estimate:
    """Return the mean of a few independent values with its t interval.

    Raises:
        ValueError: There are fewer than two values.
    """
    if len(values) < 2:
        raise ValueError(f"values must hold at least 2 numbers, got {len(values)}: a single one has no spread")
    mean = float(np.mean(values))
    standard_error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * standard_error
    return Estimate(mean, mean - half, mean + half, standard_error, method)


def proportion_estimate(count: int, total: int, counted: str) -> Estimate:
    """Return ``count / total`` with Wilson's score interval, which stays in [0, 1] and is not empty at 0 or 1.

    Args:
        count: Number of items with the property.
        total: Number of all items, at least 1.
        counted: Name of the items, for ``method``, such as ``"samples"``.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    if not 0 <= count <= total or total < 1:
        raise ValueError(f"count must lie in 0 to total and total be at least 1, got {count} of {total}")
    proportion = count / total
    interval = stats.binomtest(count, total).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(
        proportion,
        float(interval.low),
        float(interval.high),
        math.sqrt(proportion * (1 - proportion) / total),
        f"Wilson score interval over the {counted}",
    )
