"""Overhead of the training loop: the steps of a complete training run against the same steps alone.

    python -m benchmarks.loop [--json] [--digits 120] [--larger 24]

The first is a run of `train.py`: Lightning, EMA, monitoring of losses, metrics, a progress bar. The second is the
minimum of any loop: the next batch, the loss, its gradient, clipping, the optimizer, for a separate network. Each step
of the run is followed by a bare one, so that both see the same state of the machine. Neither includes validation,
sample images and checkpoints.
"""

from __future__ import annotations

import io
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from hydra import compose
from rich.console import Console

from benchmarks.equal_work import EQUAL_WORK, peer
from benchmarks.harness import Row, command, print_progress
from diffusion_lab.cli.hydra_app import initialized_hydra
from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.config.validate import parse_as
from diffusion_lab.create import create_denoiser
from diffusion_lab.faults.unresolved import resolved
from diffusion_lab.run_images.classes import with_counted_classes
from diffusion_lab.training import create, fit
from diffusion_lab.training.callbacks import progress
from diffusion_lab.training.create import create_loss
from diffusion_lab.training.optimizers import create_optimizer
from diffusion_lab.training.sources import create_datamodule

CONF = Path(__file__).resolve().parents[1] / "conf"
MIN_SHARE = 0.97
WARM_UP = 3
"""Steps that are not counted."""

DIGITS_STEPS, LARGER_STEPS = 120, 24

LARGER = [
    "data=emoji",
    "conditioning=none",
    "data.loading.batch_size=16",
    *(f"model.architecture.{name}={value}" for name, value in EQUAL_WORK.items()),
]
"""The training step of the goals, which takes seconds."""


def settings(overrides: list[str], folder: Path) -> TrainConfig:
    """Return the settings of `train.py` with these arguments, without work between epochs."""
    quiet = ["logger=none", "training.validation.enabled=false", "training.visualization.enabled=false"]
    quiet += ["training.checkpointing.save_best_only=false", "training.checkpointing.save_optimizer=false"]
    return composed([*overrides, *quiet, "output.overwrite=true"], folder)


def composed(overrides: list[str], folder: Path) -> TrainConfig:
    """Return the settings of `train.py` with these arguments, on the CPU."""
    with initialized_hydra("app", CONF):
        tree = resolved(compose("train", [*overrides, f"output.base_dir={folder}", "compute.device=cpu"]), [])
    tree = {name: tree[name] for name in TrainConfig.model_fields if name in tree and name != "name"}
    return parse_as(TrainConfig, tree, [])


def bare_steps(config: TrainConfig) -> Iterator[int]:
    """Make a step on the next batch for each item requested; yield the number of its images."""
    data = create_datamodule(config, seed=0)
    denoiser = create_denoiser(with_counted_classes(config, data.class_names).model, data.class_names)
    loss = create_loss(config.training.loss, config.model.conditioning.class_dropout_prob)
    optimizer = create_optimizer(config.training.optimizer, denoiser.parameters())
    clip = config.training.optimizer.gradient_clip_norm
    while True:
        for raw in data.train_dataloader():
            batch = data.on_after_batch_transfer(raw, 0)
            optimizer.zero_grad()
            loss(denoiser, batch.images, batch.labels, batch.seed).backward()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(denoiser.parameters(), clip)
            optimizer.step()
            yield len(batch.images)


class SideBySide(peer("lightning.pytorch").Callback):  # type: ignore[misc]
    """Makes a bare step after each of the run, and times both; ends the run after ``steps`` of each."""

    def __init__(self, config: TrainConfig, steps: int) -> None:
        self.whole: list[float] = []
        self.bare: list[float] = []
        self.images = 0
        self._steps = bare_steps(config)
        self._left: float | None = None
        self._most = steps

    def on_train_epoch_start(self, *arguments: Any) -> None:
        self._left = None  # work between epochs is not counted

    def on_train_batch_end(self, trainer: Any, *arguments: Any) -> None:
        arrived = time.perf_counter()
        if self._left is not None:
            self.whole.append(arrived - self._left)
        self.images = next(self._steps)
        left = time.perf_counter()
        if self._left is not None:
            self.bare.append(left - arrived)
        self._left = left
        trainer.should_stop = len(self.bare) >= self._most

    def seconds(self) -> tuple[float, float]:
        """Return the mean time of a step of the run and of a bare one, without those for warm-up."""
        whole, bare = (sum(taken[WARM_UP:]) / len(taken[WARM_UP:]) for taken in (self.whole, self.bare))
        return whole, bare


def side_by_side(config: TrainConfig, steps: int) -> SideBySide:
    """Train with bare steps in between."""
    callback = SideBySide(config, steps)

    def watched(config: TrainConfig, device: Any, callbacks: list[Any], loggers: list[Any], *others: Any) -> Any:
        return create.create_trainer(config, device, [*callbacks, callback], loggers, *others)  # called last

    # the bar is drawn once per second, and half of the time is that of the bare steps
    drawn_as_often = mock.patch.object(progress, "REFRESH_SECONDS", 2 * progress.REFRESH_SECONDS)
    with mock.patch.object(fit, "create_trainer", watched), drawn_as_often:
        fit.train(config, Console(file=io.StringIO(), force_terminal=True))
    return callback


def row(what: str, overrides: list[str], steps: int) -> Row:
    """Return the images per second of both, and their ratio."""
    print_progress(f"the loop: {what}")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        callback = side_by_side(settings(overrides, Path(folder) / "run"), steps)
    whole, bare = callback.seconds()
    speeds = callback.images / whole, callback.images / bare
    return Row("2", f"training loop, {what}", *speeds, "images/s", bare / whole, MIN_SHARE, note="bare step")


def measure(digits: str = str(DIGITS_STEPS), larger: str = str(LARGER_STEPS)) -> list[Row]:
    """Return a row for the digits with default settings, whose steps are short, and one for the goals' network."""
    return [
        row("digits, default settings", [], int(digits)),
        row("the goals' network, 32×32×3, batch 16", LARGER, int(larger)),
    ]


if __name__ == "__main__":
    command("loop", measure, digits=str(DIGITS_STEPS), larger=str(LARGER_STEPS))
