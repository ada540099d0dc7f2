"""Anomalies in training: values that are NaN or infinite, and loss spikes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from diffusion_lab.checkpoint import find_checkpoint

MEMORY = 50
"""Effective number of losses in the running mean."""

WARM_UP = 20
"""Number of losses before the first one that can be a spike."""

QUIET_STEPS = 100
"""Steps after a reported spike in which no other is reported."""


class NonFiniteError(ValueError):
    """A loss, gradient or weight is NaN or infinite, so that training cannot continue."""


@contextlib.contextmanager
def naming_last_good_checkpoint(run_folder: Path) -> Iterator[None]:
    """Add to the message of a NonFiniteError the last good checkpoint and what may help."""
    try:
        yield
    except NonFiniteError as error:
        try:
            good = f"the last good checkpoint is {find_checkpoint(run_folder, prefer='last')}"
        except FileNotFoundError:
            good = "no checkpoint was saved before it"
        raise NonFiniteError(
            f"{error}; {good}. Try a lower training.optimizer.learning_rate, training.optimizer.gradient_clip_norm, or "
            "training.watch.skip_non_finite=N to skip up to N consecutive such steps"
        ) from error


def gradient_norm(optimizer: Optimizer) -> Tensor:
    """Return the total norm of the gradients of an optimizer; NaN or infinite if one of them is."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    return torch.nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])


def check_finite(weights: Mapping[str, Tensor], step: int) -> None:
    """Raise NonFiniteError if a weight is NaN or infinite, so that it is never saved."""
    for name, weight in weights.items():
        if weight.is_floating_point() and not bool(weight.isfinite().all()):
            raise NonFiniteError(f"{name} is NaN or infinite after step {step}: these weights are not saved")


class Spike(NamedTuple):
    """A loss far above the running mean of those before it."""

    step: int
    loss: float
    mean: float


class SpikeDetector:
    """Detects losses of at least ``factor`` times their running mean."""

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self._seen = 0
        self._quiet_until = 0
        self._mean: float | None = None

    def update(self, loss: float, step: int) -> Spike | None:
        """Add the loss of a step; return it if it is a spike, unless one was returned a short time ago."""
        if not math.isfinite(loss):  # handled by TrainingMonitor
            return None
        self._seen += 1
        mean = loss if self._mean is None else self._mean
        # clipped, so that a spike does not raise the threshold for the next one
        self._mean = mean + (min(loss, self.factor * mean) - mean) / min(self._seen, MEMORY)
        if self._seen <= WARM_UP or loss < self.factor * mean or step < self._quiet_until:
            return None
        self._quiet_until = step + QUIET_STEPS
        return Spike(step, loss, mean)
