"""Metric that a run monitors: it selects the best checkpoint and the drops of the learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from lightning.pytorch import Trainer


@dataclass(frozen=True)
class WatchedMetric:
    """The metric of ``training.validation.metric``.

    Args:
        name: Name under which it is logged.
        mode: Whether lower or higher values are better.
    """

    name: str
    mode: Literal["min", "max"] = "min"

    def is_better(self, value: float, best: float | None) -> bool:
        """Return whether a value is finite and better than the best so far (None if there is none)."""
        if not math.isfinite(value):
            return False
        return best is None or (value < best if self.mode == "min" else value > best)


def metric_value(trainer: Trainer, name: str) -> float:
    """Return the value of a logged metric after a validation.

    Raises:
        ValueError: The metric was not logged; the message lists the logged ones.
    """
    value = trainer.callback_metrics.get(name)
    if value is None:
        logged = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
        raise ValueError(
            f"training.validation.metric must be a metric that the run logs, got {name!r}, which the validation of "
            f"epoch {trainer.current_epoch + 1} did not log (it logged {logged}): choose one of these, or log it with "
            "self.log by the end of the validation"
        )
    return float(value)


def format_metric(value: float) -> str:
    """Format a metric with four decimals, or with four significant digits if it is very small or large.

    >>> format_metric(1.23456), format_metric(0.000123456), format_metric(1234567.8)
    ('1.2346', '0.0001235', '1.235e+06')
    """
    return f"{value:.4f}" if value == 0 or 0.01 <= abs(value) < 1e5 else f"{value:.4g}"
