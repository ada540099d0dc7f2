from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from diffusion_lab.training.callbacks import EMACallback
from diffusion_lab.training.module import DiffusionModule
from tests.training.tiny import tiny_fit


class Watch(Callback):
    """Records the initial weights and those after each optimizer step."""

    def __init__(self) -> None:
        self.weights: list[Tensor] = []
        self.steps = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.weights = [flat(pl_module)]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step > self.steps:
            self.steps = trainer.global_step
            self.weights.append(flat(pl_module))


def flat(module: LightningModule) -> Tensor:
    assert isinstance(module, DiffusionModule)
    return torch.cat([weight.detach().flatten().double() for weight in module.denoiser.parameters()])


def average_of(module: DiffusionModule) -> Tensor:
    assert module.ema is not None
    return torch.cat([weight.flatten().double() for weight in module.ema.average.parameters()])


@pytest.mark.parametrize("warmup", [False, True])
@pytest.mark.parametrize(("accumulate", "steps"), [(1, 6), (2, 4)])
def test_average_in_closed_form(tmp_path: Path, accumulate: int, steps: int, warmup: bool) -> None:
    """average_n = Σ_i (1 − d_i) Π_{j>i} d_j · weights_i, one term per optimizer step; three batches per epoch."""
    watch = Watch()
    ema = {"enabled": True, "decay": 0.8, "warmup": warmup}
    changes = {"training.ema": ema, "training.accumulate_batches": accumulate, "training.epochs": 2}
    trainer, module = tiny_fit(tmp_path, [EMACallback(), watch], changes)
    assert module.ema is not None
    assert trainer.global_step == int(module.ema.updates) == steps
    decays = [min(0.8, (1 + n) / (10 + n)) if warmup else 0.8 for n in range(1, steps + 1)]
    expected = watch.weights[0]
    for decay, weights in zip(decays, watch.weights[1:], strict=True):
        expected = decay * expected + (1 - decay) * weights
    torch.testing.assert_close(average_of(module), expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(average_of(module), watch.weights[-1], atol=1e-3)


def test_average_is_neither_trained_nor_swapped_in(tmp_path: Path) -> None:
    seen: list[bool] = []

    class Look(Callback):
        def on_train_batch_start(
            self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
        ) -> None:
            assert isinstance(pl_module, DiffusionModule)
            assert pl_module.ema is not None
            seen.append(pl_module.denoiser.training and not pl_module.ema.average.training)

    _, module = tiny_fit(tmp_path, [EMACallback(), Look()])
    assert seen == [True] * 6
    assert module.ema is not None
    assert not any(weight.requires_grad for weight in module.ema.average.parameters())
