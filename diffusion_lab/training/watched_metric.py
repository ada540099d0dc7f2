"""The metric by which a run judges itself: which checkpoint is best, when the learning rate drops."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from lightning.pytorch import Trainer


@dataclass(frozen=True)
class WatchedMetric:
    """``training.validation.metric``.

    Args:
        name: The name under which it is logged.
        mode: Whether lower or higher values are better.
    """

    name: str
    mode: Literal["min", "max"] = "min"

    def is_better(self, value: float, best: float | None) -> bool:
        """Whether a value is finite and better than the best so far, None where there is none."""
        if not math.isfinite(value):
            return False
        return best is None or (value < best if self.mode == "min" else value > best)


def metric_value(trainer: Trainer, name: str) -> float:
    """Return the value of a logged metric after a validation.

    Raises:
        ValueError: Nothing has logged it; the message lists what is logged.
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
    """Return a metric as text: with four decimals, or four significant digits where those say too little or too much.

    >>> in_digits(1.23456), in_digits(0.000123456), in_digits(1234567.8)
    ('1.2346', '0.0001235', '1.235e+06')
    """
    return f"{value:.4f}" if value == 0 or 0.01 <= abs(value) < 1e5 else f"{value:.4g}"
