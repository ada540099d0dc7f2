"""Optimizer steps of several batches: weights of the batches, and one computation of the gradient norm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from diffusion_lab.training import module as module_of_training
from diffusion_lab.training.accumulation import AccumulationWindow
from diffusion_lab.training.anomalies import gradient_norm
from tests.training.tiny import tiny_run


@pytest.mark.parametrize("sizes", [[4], [4, 4], [4, 4, 3], [5, 2]])
def test_the_weighted_gradients_are_those_of_the_mean_over_all_images(sizes: list[int]) -> None:
    """The trainer divides the mean loss of each batch by ``accumulated``, also in an epoch's last, shorter step."""
    accumulated, window = 4, AccumulationWindow()
    weight = torch.tensor(2.0, requires_grad=True)
    images = torch.arange(float(sum(sizes)))
    for part in images.split(sizes):
        losses = weight * part
        window.add(losses, torch.ones(len(part)))
        (window.batch_weight * losses.mean() / accumulated).backward()
    step = window.close()
    assert weight.grad is not None
    torch.testing.assert_close(step.gradient_factor(accumulated) * weight.grad, images.mean())
    assert step.means("loss")["loss"] == (2 * images.mean(), len(images))


def test_a_closed_window_is_empty() -> None:
    window = AccumulationWindow()
    window.add(torch.ones(3), torch.ones(3))
    window.close()
    window.add(torch.ones(2), torch.ones(2))
    assert window.batch_weight == 1
    assert [len(losses) for losses in window.close().losses] == [2]


@pytest.mark.parametrize("accumulated", [1, 2])
def test_monitoring_and_clipping_share_one_gradient_norm_per_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulated: int
) -> None:
    norms: list[Any] = []
    monkeypatch.setattr(
        module_of_training, "gradient_norm", lambda optimizer: norms.append(gradient_norm(optimizer)) or norms[-1]
    )
    clipping = {"training.optimizer.gradient_clip_norm": 0.1, "training.accumulate_batches": accumulated}
    steps = tiny_run(tmp_path, clipping | {"training.epochs": 1}).steps
    assert len(norms) == steps
    assert len({float(norm) for norm in norms}) == steps, "each step has its own"
