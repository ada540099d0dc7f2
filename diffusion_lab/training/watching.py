"""What goes wrong in training: numbers that are none, and a loss that jumps."""

from __future__ import annotations

import contextlib
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


def refuse_non_finite(weights: Mapping[str, Tensor], step: int) -> None:
    """Raise NonFiniteError where a weight is NaN or infinite: such weights are no checkpoint."""
    for name, weight in weights.items():
        if weight.is_floating_point() and not bool(weight.isfinite().all()):
            raise NonFiniteError(f"{name} is NaN or infinite after step {step}: these weights are not saved")


class Spike(NamedTuple):
    """A loss far above the running mean of those before it."""

    step: int
    loss: float
    mean: float


class SpikeWatch:
    """Looks for losses that are ``factor`` times their running mean.

    What it finds stays on the device until it is asked for, so that looking makes no GPU wait.
    """

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self._seen = 0
        self._quiet_until = 0
        self._mean: Tensor | None = None
        self._worst: Tensor | None = None  # ratio, step, loss and mean of the worst spike since the last question

    def see(self, loss: Tensor, step: int) -> None:
        """Take in the loss of a step."""
        self._seen += 1
        mean = loss if self._mean is None else self._mean
        if self._seen > WARM_UP:
            found = torch.stack([loss / mean, torch.full_like(loss, step), loss, mean])
            worst = torch.zeros_like(found) if self._worst is None else self._worst
            self._worst = torch.where(found[0] > worst[0], found, worst)
        # What is no number is for others to judge, and a spike must not become the measure of the next one.
        tamed = torch.where(loss.isfinite(), loss.minimum(self.factor * mean), mean)
        self._mean = mean.lerp(tamed, 1 / min(self._seen, MEMORY))

    def found(self) -> Spike | None:
        """The worst spike since the last time, unless one was told a moment ago."""
        if self._worst is None:
            return None
        ratio, step, loss, mean = self._worst.tolist()
        self._worst = None
        if not self.factor <= ratio < float("inf") or step < self._quiet_until:
            return None
        self._quiet_until = int(step) + QUIET_STEPS
        return Spike(int(step), loss, mean)
