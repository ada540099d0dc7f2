"""What the loop costs: images a second of a whole training run against those of its bare step.

Both train the same network on the same images, batch by batch, with the same loss, clipping and optimizer. The one is
the run as `train.py` makes it: Lightning, averaging, the watch over losses, metrics, a progress bar. The other is what
no loop can do without. Validation, pictures and checkpoints are no part of either.
"""

from __future__ import annotations

import io
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from rich.console import Console

from benchmarks.harness import Row, command, say
from diffusion_lab.config.compose import resolved
from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.config.validate import parse_as
from diffusion_lab.create import create_denoiser
from diffusion_lab.training.build import create_loss
from diffusion_lab.training.fit import train
from diffusion_lab.training.optimizers import create_optimizer
from diffusion_lab.training.sources import create_datamodule

CONF = Path(__file__).resolve().parents[1] / "conf"
LEAST_SHARE = 0.97
ROUNDS = 2

DIGITS = ["training.epochs=4"]
LARGER = [
    "model=unet_small",
    "model.architecture.image_size=32",
    "model.architecture.model_channels=16",
    "model.architecture.num_res_blocks=1",
    "data.loading.batch_size=16",
    "data.validation_split.fraction=0.5",
    "training.epochs=1",
]
"""Digits made larger, in small batches: half a hundred steps."""


def settings(overrides: list[str], folder: Path) -> TrainConfig:
    """Those of `train.py` with these arguments, without what comes between epochs."""
    quiet = ["logger=none", "training.validation.enabled=false", "training.visualization.enabled=false"]
    quiet += ["training.checkpointing.save_best_only=false", "training.checkpointing.save_optimizer=false"]
    return composed([*overrides, *quiet, "output.overwrite=true"], folder)


def composed(overrides: list[str], folder: Path) -> TrainConfig:
    """Those of `train.py` with these arguments, on the CPU."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        tree = resolved(compose("train", [*overrides, f"output.base_dir={folder}", "compute.device=cpu"]), [])
    tree = {name: tree[name] for name in TrainConfig.model_fields if name in tree and name != "name"}
    return parse_as(TrainConfig, tree, [])


def whole(config: TrainConfig) -> float:
    """Images a second of the run."""
    summary = train(config, Console(file=io.StringIO(), force_terminal=True))
    assert summary is not None
    return summary.images_per_second


def bare(config: TrainConfig) -> float:
    """Images a second of the steps alone, on the same batches."""
    torch.manual_seed(0)
    data = create_datamodule(config, seed=0)
    denoiser = create_denoiser(config.model, data.class_names)
    loss = create_loss(config.training.loss, config.model.conditioning.class_dropout_prob)
    optimizer, images, seconds = create_optimizer(config.training.optimizer, denoiser.parameters()), 0, 0.0
    clip = config.training.optimizer.gradient_clip_norm
    for _ in range(config.training.epochs):
        batches = data.train_dataloader()
        began = time.monotonic()
        for raw in batches:
            batch = data.on_after_batch_transfer(raw, 0)
            optimizer.zero_grad()
            loss(denoiser, batch.images, batch.labels, batch.seed).backward()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(denoiser.parameters(), clip)
            optimizer.step()
            images += len(batch.images)
        seconds += time.monotonic() - began
    return images / seconds


def in_rounds(config: TrainConfig, rounds: int) -> tuple[float, float, float]:
    """Images a second of both, and the median of the ratios within a round, the order changing from one to the next."""
    ways: list[Callable[[TrainConfig], float]] = [whole, bare]
    found: dict[Callable[[TrainConfig], float], list[float]] = {way: [] for way in ways}
    for index in range(rounds + 1):
        for way in ways if index % 2 else reversed(ways):
            speed = way(config)
            if index:  # the first is for warming up
                found[way].append(speed)
    ratio = statistics.median(one / other for one, other in zip(found[whole], found[bare], strict=True))
    return statistics.median(found[whole]), statistics.median(found[bare]), ratio


def measure(rounds: str = str(ROUNDS)) -> list[Row]:
    """A row for the digits' own settings, and one for a network that works at 32×32."""
    rows = []
    for what, overrides in (("digits, default settings", DIGITS), ("32×32, 16 channels, batch 16", LARGER)):
        say(f"the loop: {what}")
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            ours, least, ratio = in_rounds(settings(overrides, Path(folder) / "run"), int(rounds))
        rows.append(Row("2", f"training loop, {what}", ours, least, "images/s", ratio, LEAST_SHARE, note="bare step"))
    return rows


if __name__ == "__main__":
    command("loop", measure, rounds=str(ROUNDS))
