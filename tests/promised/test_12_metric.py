"""Validation: any logged metric can select the best checkpoint, and a default split is announced."""

from __future__ import annotations

import json
import math
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console

from diffusion_lab.config import ConfigError
from diffusion_lab.diffusion import noise_bands
from diffusion_lab.metric_names import LOGGED_METRICS, LOSSES
from tests.training.tiny import BIAS_PLAN, resume_of, saved, tiny_config, tiny_run

PLAN = BIAS_PLAN | {"training.epochs": 4, "training.checkpointing.save_frequency": 1}
"""Both losses fall until epoch 3 and rise after it; 18 images in three batches per epoch."""


class Quality(Callback):
    """Logs a score and a distance that are best in the second epoch."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        distance = float(abs(trainer.current_epoch - 1))
        pl_module.log("quality/score", -distance)
        pl_module.log("distance", distance)


def metrics_of(folder: Path, name: str) -> list[float]:
    lines = [json.loads(line) for line in (folder / "logs/metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


def metric(name: str, **more: Any) -> dict[str, Any]:
    return {"training.validation.metric": name, **{f"training.validation.{key}": value for key, value in more.items()}}


def own(name: str, **more: Any) -> dict[str, Any]:
    return {"training.callbacks": [f"{__name__}.Quality"], **metric(name, **more)}


@pytest.mark.parametrize("name", ["loss", "val/loss", "loss_at_high_noise", "val/loss_at_high_noise"])
def test_the_best_checkpoint_follows_a_loss_of_validation(tmp_path: Path, name: str) -> None:
    shown = StringIO()
    summary = tiny_run(tmp_path, PLAN | metric(name), Console(file=shown, width=200))
    logged = name if name.startswith("val/") else f"val/{name}"
    values = metrics_of(tmp_path, logged)
    assert len(values) == 4
    assert summary.metric == json.loads((tmp_path / "summary.json").read_text())["metric"] == logged
    assert summary.best_value == pytest.approx(min(values))
    assert summary.best_epoch == 1 + values.index(min(values)) == 3
    assert shown.getvalue().count(f"  {logged} ") == 4, "the line of each epoch shows it"
    assert f"best {logged} {min(values):.4f} in epoch 3" in shown.getvalue()


@pytest.mark.parametrize("name", ["train/loss", "train/loss_at_medium_noise"])
def test_the_best_checkpoint_follows_the_mean_of_training(tmp_path: Path, name: str) -> None:
    """The mean over all images of the epoch, not only over logged steps."""
    summary = tiny_run(tmp_path, PLAN | metric(name) | {"training.log_interval": 1})
    losses = metrics_of(tmp_path, "train/loss")
    epochs = [math.fsum(losses[start : start + 3]) / 3 for start in range(0, 12, 3)]
    assert summary.metric == name
    assert summary.best_epoch == 1 + epochs.index(min(epochs))
    if name == "train/loss":
        assert summary.best_value == pytest.approx(min(epochs), rel=1e-5)
        tiny_run(tmp_path / "rarely", PLAN | metric(name) | {"training.log_interval": 7})
        rarely = json.loads((tmp_path / "rarely/summary.json").read_text())
        assert rarely["best_value"] == pytest.approx(summary.best_value, rel=1e-5)


def test_learning_rate(tmp_path: Path) -> None:
    summary = tiny_run(tmp_path, metric("train/learning_rate"))
    assert summary.best_value == pytest.approx(0.01)


def test_the_mean_of_training_survives_an_interruption(tmp_path: Path) -> None:
    whole = tiny_run(tmp_path / "whole", metric("train/loss"))
    stop = {"training.callbacks": [f"{__name__}.StopInTheSecondEpoch"]}
    with pytest.raises(RuntimeError, match="stopped here"):
        tiny_run(tmp_path / "stopped", metric("train/loss") | stop)
    found = sorted((tmp_path / "stopped/checkpoints").glob("step_*.ckpt"))[-1]
    assert saved(found)["diffusion_lab"]["step"] == 5
    resumed = tiny_run(tmp_path / "stopped", metric("train/loss") | resume_of(found))
    assert (resumed.best_value, resumed.best_epoch) == (whole.best_value, whole.best_epoch)


class StopInTheSecondEpoch(Callback):
    """Saves and stops in the middle of the second epoch, after step 5."""

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == 5:
            (saving,) = (callback for callback in trainer.checkpoint_callbacks if hasattr(callback, "save_now"))
            saving.save_now(trainer)
            raise RuntimeError("stopped here")


@pytest.mark.parametrize(("name", "mode"), [("quality/score", "max"), ("distance", "min")])
def test_the_best_checkpoint_follows_a_custom_metric(tmp_path: Path, name: str, mode: str) -> None:
    summary = tiny_run(tmp_path, PLAN | own(name, mode=mode))
    assert (summary.metric, summary.mode, summary.best_epoch, summary.best_value) == (name, mode, 2, 0)
    assert saved(tmp_path / "checkpoints/best.ckpt")["diffusion_lab"]["epochs_done"] == 2


@pytest.mark.parametrize(("mode", "rate_of_the_third_epoch"), [("max", 0.1), ("min", 0.05)])
def test_plateau_follows_the_metric_and_its_mode(tmp_path: Path, mode: str, rate_of_the_third_epoch: float) -> None:
    """The score rises in the second epoch."""
    plateau = {"training.scheduler": {"type": "plateau", "factor": 0.5, "patience": 0}, "training.epochs": 3}
    tiny_run(tmp_path, {"training.optimizer.learning_rate": 0.1} | plateau | own("quality/score", mode=mode))
    assert metrics_of(tmp_path, "train/learning_rate")[2::3] == [0.1, 0.1, rate_of_the_third_epoch]


def test_an_unknown_metric_is_refused_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        tiny_config(tmp_path, metric("val/los"))
    message = str(caught.value)
    assert "training.validation.metric" in message
    assert "must be a metric that the run logs: loss, loss_at_low_noise" in message
    assert "did you mean 'val/loss'?" in message


def test_a_custom_metric_that_is_not_logged_ends_the_first_validation(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"validation\.metric must be .* got 'qualiti', which the validation of epoch 1 did not .*quality/score",
    ):
        tiny_run(tmp_path, PLAN | own("qualiti"))


@pytest.mark.parametrize(
    ("path", "rule"),
    [(f"{__name__}.Nothing", "has no Nothing"), ("pathlib.Path", "derived from lightning.pytorch.Callback")],
)
def test_an_invalid_callback_is_refused_before_anything_is_written(tmp_path: Path, path: str, rule: str) -> None:
    with pytest.raises(ValueError, match=rule) as caught:
        tiny_run(tmp_path / "run", {"training.callbacks": [path]})
    assert "training.callbacks[0]" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_every_known_metric_is_logged_by_runs(tmp_path: Path) -> None:
    tiny_run(tmp_path, {"training.log_interval": 1})
    lines = [json.loads(line) for line in (tmp_path / "logs/metrics.jsonl").read_text().splitlines()]
    logged = {name for line in lines for name in line if "/" in name}
    assert logged <= set(LOGGED_METRICS)
    assert {f"loss_at_{band}_noise" for band in noise_bands.NOISE_BANDS} | {"loss"} == set(LOSSES)
    assert torch.isfinite(torch.tensor(metrics_of(tmp_path, "val/loss"))).all()


class TestDefaultSplit:
    """Without data.paths.val a fraction of the training images is held out, which the start lines announce."""

    def started(self, folder: Path, changes: dict[str, Any]) -> str:
        shown = StringIO()
        tiny_run(folder, {"training.epochs": 1} | changes, Console(file=shown, width=80))
        return shown.getvalue()

    def test_of_a_named_set(self, tmp_path: Path) -> None:
        digits = {"data.type": "digits", "model.conditioning.num_classes": 10, "data.loading.batch_size": 512}
        printed = self.started(tmp_path, digits | {"data.validation_split": {"fraction": 0.1, "seed": 0}})
        assert (
            "images      1,293 of 8×8 pixels, 1 channel, 10 classes\n"
            "validation  145 images, a tenth of each class, split off and not trained on\n"
            "            off: training.validation.enabled=false\n"
        ) in printed

    def test_of_a_folder(self, image_folder: Path, tmp_path: Path) -> None:
        folder = {"data.type": "image_folder", "data.paths.train": str(image_folder), "data.cache": "memory"}
        folder |= {"model.conditioning.num_classes": 2}
        printed = self.started(tmp_path / "split", folder)
        assert "validation  4 images, 0.25 of each class, split off and not trained on\n" in printed
        assert "off: training.validation.enabled=false; others: data.paths.val=DIR\n" in printed
        off = self.started(tmp_path / "off", folder | {"training.validation.enabled": False})
        assert "images      16 of 8×8" in off
        assert "validation  none: training.validation.enabled=false\n" in off
        given = self.started(tmp_path / "given", folder | {"data.paths.val": str(image_folder)})
        assert "images      16 of 8×8" in given
        assert f"validation  16 images of {image_folder}\n" in given
