"""Exponential moving average of weights."""

from __future__ import annotations

import copy
import math
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_lab.denoiser import Denoiser


class EMA(nn.Module):
    """A denoiser whose weights are the running average of another's; it is never trained and never swapped in.

    Args:
        denoiser: Whose weights are averaged; the average begins as a copy of them.
        decay: Share of the average kept at each update, in [0, 1).
        warmup: Begin with a smaller decay, ``(1 + n) / (10 + n)`` at update n, so that the initial weights are
            soon forgotten (the rule of TensorFlow's ExponentialMovingAverage).
    """

    updates: Tensor

    def __init__(self, denoiser: Denoiser, decay: float, warmup: bool = True) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"training.ema.decay must lie in [0, 1), got {decay}")
        self.average = copy.deepcopy(denoiser).requires_grad_(False).eval()
        self.decay = decay
        self.warmup = warmup
        self.register_buffer("updates", torch.tensor(0, dtype=torch.int64))
        self._updates: int | None = None  # the same as a plain number: reading the buffer makes a GPU wait

    def decay_at(self, update: int) -> float:
        """The decay used for update number ``update``, counted from 1."""
        return min(self.decay, (1 + update) / (10 + update)) if self.warmup else self.decay

    def initial_share(self, updates: int) -> float:
        """Share of the initial weights that is left in the average after so many updates."""
        return math.prod(self.decay_at(update) for update in range(1, updates + 1))

    @torch.no_grad()
    def update(self, denoiser: Denoiser) -> None:
        """Take in the present weights: ``average ← decay · average + (1 − decay) · weights``."""
        self._updates = int(self.updates) + 1 if self._updates is None else self._updates + 1
        self.updates += 1
        averages, weights = _tensors(self.average), _tensors(denoiser)
        torch._foreach_lerp_(averages, weights, 1 - self.decay_at(self._updates))
        for kept, present in zip(self.average.buffers(), denoiser.buffers(), strict=True):
            if not kept.is_floating_point():  # counters: no average of these makes sense
                kept.copy_(present)

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self._updates = None

    def train(self, mode: bool = True) -> EMA:
        """Stay in evaluation mode, whatever the trainer sets."""
        return super().train(False)


def _tensors(denoiser: Denoiser) -> list[Tensor]:
    return [tensor for tensor in chain(denoiser.parameters(), denoiser.buffers()) if tensor.is_floating_point()]
