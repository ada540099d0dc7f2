"""What goes wrong in training: numbers that are none, and a loss that jumps."""

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
"""Losses that the running mean is of, in effect."""

WARM_UP = 20
"""Losses seen before one is called a spike."""

QUIET_STEPS = 100
"""From one spike that is told to the next."""


class NonFiniteError(ValueError):
    """A loss, gradient or weight is NaN or infinite: going on would make nothing but more of it."""


@contextlib.contextmanager
def naming_last_good(run_folder: Path) -> Iterator[None]:
    """Have a NonFiniteError tell where to go back to, and what may help."""
    try:
        yield
    except NonFiniteError as error:
        try:
            good = f"the last good checkpoint is {find_checkpoint(run_folder, prefer='last')}"
        except FileNotFoundError:
            good = "no checkpoint was saved before it"
        raise NonFiniteError(
            f"{error}; {good}. Try a lower training.optimizer.learning_rate, training.optimizer.gradient_clip_norm, or "
            "training.watch.skip_non_finite=N to leave out up to N such steps in a row"
        ) from error


def gradient_norm(optimizer: Optimizer) -> Tensor:
    """The total norm of what the optimizer is given, NaN or infinite where a part is."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    return torch.nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])


def check_finite(weights: Mapping[str, Tensor], step: int) -> None:
    """Raise NonFiniteError where a weight is NaN or infinite: such weights are no checkpoint."""
    for name, weight in weights.items():
        if weight.is_floating_point() and not bool(weight.isfinite().all()):
            raise NonFiniteError(f"{name} is NaN or infinite after step {step}: these weights are not saved")


class Spike(NamedTuple):
    """A loss far above the running mean of those before it."""

    step: int
    loss: float
    mean: float


class SpikeDetector:
    """Looks for losses that are ``factor`` times their running mean."""

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self._seen = 0
        self._quiet_until = 0
        self._mean: float | None = None

    def see(self, loss: float, step: int) -> Spike | None:
        """Take in the loss of a step; gives it back if it is a spike, unless one was told a moment ago."""
        if not math.isfinite(loss):  # what is no number is for others to judge
            return None
        self._seen += 1
        mean = loss if self._mean is None else self._mean
        # a spike must not become the measure of the next one
        self._mean = mean + (min(loss, self.factor * mean) - mean) / min(self._seen, MEMORY)
        if self._seen <= WARM_UP or loss < self.factor * mean or step < self._quiet_until:
            return None
        self._quiet_until = step + QUIET_STEPS
        return Spike(step, loss, mean)
