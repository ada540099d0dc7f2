"""The validation loss uses fixed noise and times for each image, for the EMA and the raw weights."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from diffusion_lab.checkpoint import find_checkpoint
from diffusion_lab.config import ConfigError
from diffusion_lab.ema import EMA
from diffusion_lab.metric_names import RAW_LOSSES
from diffusion_lab.shapes import Batch
from diffusion_lab.training.module import DiffusionModule
from tests.training.test_module import module_of
from tests.training.tiny import BIAS_PLAN, resume_of, saved, tiny_config, tiny_denoiser, tiny_run

ONE_EPOCH: dict[str, Any] = {
    "training.epochs": 1,
    "training.optimizer.type": "tests.training.tiny.BiasPlan",  # moves the weights alike whatever the batches are
    "training.optimizer.best_step": 10**6,
    "training.optimizer.learning_rate": 1e-7,
    "training.ema.decay": 0.0,
    "data.validation_split": {"fraction": 0.5, "seed": 0},
}


def validation_of(folder: Path) -> list[dict[str, float]]:
    """Return the losses of each validation by metric."""
    lines = [json.loads(line) for line in (folder / "logs/metrics.jsonl").read_text().splitlines()]
    return [{name: line[name] for name in line if name.startswith("val/")} for line in lines if "val/loss" in line]


@pytest.mark.parametrize(
    "changes",
    [
        {"data.loading.batch_size": 5},
        {"data.loading.num_workers": 2},
        {"compute.seed": 7, "data.loading.shuffle_train": False},
    ],
    ids=["batch size", "workers", "seed"],
)
def test_it_depends_only_on_weights_and_images(tmp_path: Path, changes: dict[str, Any]) -> None:
    """The optimizer changes only the output bias, and the other weights of that layer are zero: all outputs agree."""
    steps = {"data.loading.batch_size": 12, "training.log_interval": 100}
    tiny_run(tmp_path / "one", ONE_EPOCH | steps)
    tiny_run(tmp_path / "other", ONE_EPOCH | steps | changes)
    (one,), (other,) = validation_of(tmp_path / "one"), validation_of(tmp_path / "other")
    assert len(one) > 4
    assert other == pytest.approx(one, rel=1e-4)


def test_images_in_another_order_and_batches_have_the_same_losses() -> None:
    module = module_of(tiny_denoiser())
    images = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(9)) * 2 - 1
    labels = torch.arange(12) % 3
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1)).tolist()

    def mean(parts: list[list[int]], seed: int) -> float:
        batches = [Batch(images[part], labels[part], seed, indices=part) for part in parts]
        return sum(losses_of(module, batch)["val/loss"] * len(batch.images) for batch in batches) / 12

    whole = mean([list(range(12))], seed=0)
    assert mean([order[:5], order[5:10], order[10:]], seed=1) == pytest.approx(whole, rel=1e-5)
    renumbered = Batch(images, labels, 0, indices=range(12, 24))
    assert losses_of(module, renumbered)["val/loss"] != pytest.approx(whole, rel=1e-3)


def losses_of(module: DiffusionModule, batch: Batch) -> dict[str, float]:
    logged: dict[str, float] = {}
    module.log = lambda name, value, **_: logged.update({name: float(value)})  # type: ignore[method-assign]
    with torch.no_grad():
        module.validation_step(batch, 0)
    return logged


def test_the_average_and_the_raw_weights_are_validated_on_equal_draws() -> None:
    denoiser = tiny_denoiser()
    module = module_of(denoiser, EMA(denoiser, decay=0.9))
    batch = Batch(torch.zeros(6, 1, 8, 8), torch.zeros(6, dtype=torch.int64), 0, indices=range(6))
    same = losses_of(module, batch)
    assert {name.replace("loss_raw", "loss"): value for name, value in same.items() if "raw" in name} == {
        name: value for name, value in same.items() if "raw" not in name
    }
    for parameter in denoiser.parameters():
        parameter.data += 0.1
    moved = losses_of(module, batch)
    assert moved["val/loss"] == same["val/loss"]
    assert moved["val/loss_raw"] != pytest.approx(same["val/loss_raw"], rel=1e-3)


def test_both_are_logged_by_noise_band_and_without_an_average_one(tmp_path: Path) -> None:
    tiny_run(tmp_path / "with", {"training.epochs": 1})
    tiny_run(tmp_path / "without", {"training.epochs": 1, "training.ema.enabled": False})
    (both,), (one,) = validation_of(tmp_path / "with"), validation_of(tmp_path / "without")
    raw = {name for name in both if "raw" in name}
    assert raw <= {f"val/{name}" for name in RAW_LOSSES}
    assert {name.replace("loss_raw", "loss") for name in raw} == both.keys() - raw == one.keys()
    # Without an average the loss is that of the raw weights.
    assert one == pytest.approx({name.replace("loss_raw", "loss"): both[name] for name in raw}, rel=1e-4)


@pytest.mark.parametrize("name", ["loss_raw", "val/loss_raw_at_high_noise"])
def test_the_best_checkpoint_follows_the_raw_loss(tmp_path: Path, name: str) -> None:
    plan = BIAS_PLAN | {"training.epochs": 4, "training.ema.decay": 0.99, "training.ema.warmup": False}
    summary = tiny_run(tmp_path, plan | {"training.validation.metric": name})
    logged = name if name.startswith("val/") else f"val/{name}"
    values = [validation[logged] for validation in validation_of(tmp_path)]
    assert (summary.metric, summary.best_epoch) == (logged, 3) == (logged, 1 + values.index(min(values)))


def test_a_raw_loss_without_an_average_is_refused(tmp_path: Path) -> None:
    changes = {"training.validation.metric": "loss_raw_at_low_noise", "training.ema.enabled": False}
    with pytest.raises(ConfigError, match=r"set training\.validation\.metric=loss_at_low_noise"):
        tiny_config(tmp_path, changes)


@pytest.mark.parametrize(("metric", "forgets"), [("loss", True), ("train/loss", False)])
def test_the_best_of_a_version_with_other_draws_is_forgotten(tmp_path: Path, metric: str, forgets: bool) -> None:
    changes = {"training.validation.metric": metric}
    tiny_run(tmp_path / "run", changes)
    content = saved(find_checkpoint(tmp_path / "run", "last"))
    del content["diffusion_lab"]["validation_draws"]
    older = tmp_path / "run/checkpoints/older.ckpt"
    torch.save(content, older)
    console = Console(file=StringIO(), width=10_000)
    tiny_run(tmp_path / "resumed", changes | {"training.epochs": 3} | resume_of(older), console)
    assert ("drew for each batch" in console.file.getvalue()) == forgets
    assert ("the best checkpoint is selected again" in console.file.getvalue()) == forgets
