"""Exponential moving averages of weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from diffusion_lab.denoiser import Denoiser


class EMA(nn.Module):
    """Denoisers whose weights are running averages of another's; they are never trained and never swapped in.

    Args:
        denoiser: Whose weights are averaged; each average begins as a copy of them.
        decay: Share of the main average, ``average``, kept at each update, in [0, 1).
        warmup: Begin with a smaller decay, ``(1 + n) / (10 + n)`` at update n, so that the initial weights are
            soon forgotten (the rule of TensorFlow's ExponentialMovingAverage).
        further_decays: Of the averages in ``further``, each different from all others. Each costs the memory of one
            copy of the weights.
    """

    updates: Tensor

    def __init__(
        self, denoiser: Denoiser, decay: float, warmup: bool = True, further_decays: Sequence[float] = ()
    ) -> None:
        super().__init__()
        self.decays = {"training.ema.decay": decay}  # by the key that each comes from, the main one first
        self.decays |= {f"training.ema.further_decays[{i}]": further for i, further in enumerate(further_decays)}
        for key, value in self.decays.items():
            if not 0 <= value < 1:
                raise ValueError(f"{key} must lie in [0, 1), got {value}")
        if len(set(self.decays.values())) < len(self.decays):
            raise ValueError(
                f"training.ema.further_decays must differ from each other and from training.ema.decay, {decay:g}, "
                f"got {list(further_decays)}"
            )
        self.average = copy.deepcopy(denoiser).requires_grad_(False).eval()
        self.further = nn.ModuleList(copy.deepcopy(self.average) for _ in further_decays)
        self.decay = decay
        self.warmup = warmup
        self.register_buffer("updates", torch.tensor(0, dtype=torch.int64))
        self._updates: int | None = None  # the same as a plain number: reading the buffer makes a GPU wait
        # Whose tensors were looked for last, and what was found: the search takes longer than the arithmetic.
        self._sources: list[Denoiser] = []
        self._tensors: list[_Tensors] = []

    def decay_at(self, update: int, decay: float) -> float:
        """The decay used for update number ``update``, counted from 1, of the average that has ``decay`` in the end."""
        return min(decay, (1 + update) / (10 + update)) if self.warmup else decay

    def initial_share(self, updates: int, decay: float) -> float:
        """Share of the initial weights that is left in the average of a decay after so many updates.

        While the decay rises, the factors (1 + n) / (10 + n) of the first m updates multiply to
        10! / ((m + 2) ⋯ (m + 10)); the rest is a power.
        """
        rising = 0
        if self.warmup:
            rising = min(updates, max(0, math.ceil((10 * decay - 1) / (1 - decay)) - 1))
        risen = math.prod(factor / (rising + factor) for factor in range(2, 11))
        return risen * decay ** (updates - rising)

    @torch.no_grad()
    def update(self, denoiser: Denoiser) -> None:
        """Take in the present weights: ``average ← decay · average + (1 − decay) · weights``, for each decay."""
        self._updates = int(self.updates) + 1 if self._updates is None else self._updates + 1
        self.updates += 1
        if self._sources != [denoiser]:
            self._sources = [denoiser]  # in a list, or its weights would count as this module's own
            self._tensors = [_tensors(of) for of in (denoiser, self.average, *self.further)]
        weights, *averages = self._tensors
        for average, decay in zip(averages, self.decays.values(), strict=True):
            torch._foreach_lerp_(average.numbers, weights.numbers, 1 - self.decay_at(self._updates, decay))
            for kept, present in zip(average.counters, weights.counters, strict=True):  # no average of these
                kept.copy_(present)

    def _apply(self, *arguments: Any, **options: Any) -> Any:
        self._sources = []  # moving to another device makes new tensors of the buffers, also of the trained ones
        return super()._apply(*arguments, **options)  # type: ignore[no-untyped-call]

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self._updates = None

    def train(self, mode: bool = True) -> EMA:
        """Stay in evaluation mode, whatever the trainer sets."""
        return super().train(False)


class _Tensors(NamedTuple):
    """What a denoiser is made of: what has an average, and counters, which have none."""

    numbers: list[Tensor]
    counters: list[Tensor]


def _tensors(denoiser: nn.Module) -> _Tensors:
    all_ = [*denoiser.parameters(), *denoiser.buffers()]
    numbers = [tensor for tensor in all_ if tensor.is_floating_point()]
    return _Tensors(numbers, [tensor for tensor in all_ if not tensor.is_floating_point()])
