"""Metrics of training steps that are passed to the loggers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from diffusion_lab.diffusion.loss import DenoisingLoss
from diffusion_lab.diffusion.noise_bands import by_noise_band
from diffusion_lab.metric_names import NOISE_BANDS
from tests.training.tiny import tiny_run

CHANGES: dict[str, Any] = {
    "training.validation.enabled": False,
    "data.loading.drop_last": False,
    "training.optimizer.learning_rate": 0.004,
}


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """Return the lines of metrics.jsonl, and the losses and noise-to-signal ratios of each batch."""
    taken: list[tuple[Tensor, Tensor]] = []
    per_image = DenoisingLoss.per_image

    def recorded(self: DenoisingLoss, *arguments: Any) -> Any:
        losses, level = per_image(self, *arguments)
        taken.append((losses.detach(), level.sigma / level.alpha))
        return losses, level

    monkeypatch.setattr(DenoisingLoss, "per_image", recorded)
    tiny_run(folder, CHANGES | changes)
    return [json.loads(line) for line in (folder / "logs" / "metrics.jsonl").read_text().splitlines()], taken


@pytest.mark.parametrize("accumulated", [1, 2])
@pytest.mark.parametrize("every", [1, 2])
def test_means_over_the_images_of_a_step_are_logged_periodically(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulated: int, every: int
) -> None:
    changes = {
        "data.loading.batch_size": 5,  # of 24 images: the last batch is smaller, and alone in its step
        "training.accumulate_batches": accumulated,
        "training.log_interval": every,
    }
    lines, taken = run(tmp_path, monkeypatch, changes)
    per_epoch = len(taken) // 2
    steps = [
        taken[begin : min(begin + accumulated, epoch * per_epoch + per_epoch)]
        for epoch in range(2)
        for begin in range(epoch * per_epoch, (epoch + 1) * per_epoch, accumulated)
    ]
    assert [line["step"] for line in lines] == list(range(every - 1, len(steps), every))
    for line in lines:
        losses, ratio = (torch.cat(parts) for parts in zip(*steps[line["step"]], strict=True))
        bands = {f"train/loss_at_{band}_noise": mean for band, (mean, _) in by_noise_band(losses, ratio).items()}
        expected = {"train/loss": losses.mean(), **bands}
        assert {name: line[name] for name in line if "loss" in name} == pytest.approx(
            {name: float(mean) for name, mean in expected.items()}
        )
        assert line["train/learning_rate"] == 0.004
        assert line["train/gradient_norm"] > 0
        assert line["epoch"] == line["step"] // (len(steps) // 2)


def test_bands_without_images_in_the_step_are_not_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines, taken = run(tmp_path, monkeypatch, {"data.loading.batch_size": 2, "training.log_interval": 1})
    bands = [{name for name in NOISE_BANDS if f"train/loss_at_{name}_noise" in line} for line in lines]
    assert bands == [set(by_noise_band(losses, ratio)) for losses, ratio in taken]
    assert len(set(map(frozenset, bands))) > 1
