"""Ours: `train.py` with an image folder, the number of epochs that fits the training time, and no other options."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from benchmarks.harness import print_progress
from benchmarks.quality.program import images_per_snapshot
from benchmarks.quality.snapshot_timer import SnapshotTimer
from diffusion_lab import DiffusionSampler, load_denoiser
from diffusion_lab.samplers import DDIMSampler
from diffusion_lab.shapes import Pixels, to_pixels
from diffusion_lab.training.module import DiffusionModule

ROOT = Path(__file__).resolve().parents[2]
VARIABLE = "QUALITY_SNAPSHOTS"
"""Environment variable with the arguments of the callback, which is created from its name alone."""

PROBE_EPOCHS = 2


class Snapshots(Callback):
    """Saves the averaged weights at the marks of a timer and at the end of training."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, DiffusionModule)
        arguments = json.loads(os.environ[VARIABLE])
        folder = Path(arguments["folder"])

        def save(seconds: float) -> None:
            torch.save(pl_module.eval_denoiser.state_dict(), folder / f"{seconds:09.2f}.pt")

        self.timer = SnapshotTimer(arguments["seconds"], save)

    def on_train_batch_end(self, *_: Any) -> None:
        self.timer.tick()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.timer.save_now()


def train(folder: Path, out: Path, seconds: float, settings: list[str]) -> None:
    """Train for approximately ``seconds``, saving a snapshot at each mark in ``out``."""
    probe = _run(folder, out / "probe", PROBE_EPOCHS, settings)
    epochs = max(int(seconds / (probe["train_seconds"] / PROBE_EPOCHS)), 1)
    snapshots = out / "snapshots"
    snapshots.mkdir()
    arguments = json.dumps({"folder": str(snapshots), "seconds": seconds})
    callback = "training.callbacks=[benchmarks.quality.ours.Snapshots]"
    _run(folder, out / "run", epochs, [callback, *settings], {VARIABLE: arguments})


def _run(
    folder: Path, run: Path, epochs: int, settings: list[str], environment: dict[str, str] | None = None
) -> dict[str, Any]:
    overrides = [
        *("data=image_folder", f"data.paths.train={folder}", f"training.epochs={epochs}", f"output.base_dir={run}"),
        *("logger=none", "compute.device=cpu", f"compute.threads={torch.get_num_threads()}", *settings),
    ]
    print_progress(f"  train.py {' '.join(overrides)}")
    subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *overrides],
        check=True,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.DEVNULL,
    )
    summary: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return summary


def num_parameters(out: Path) -> int:
    """Return the number of parameters of the network."""
    count: int = json.loads((out / "run" / "summary.json").read_text())["parameters"]
    return count


def batch_size(out: Path) -> int:
    """Return the batch size, which is that of the defaults."""
    import yaml

    size: int = yaml.safe_load((out / "run" / "config.yaml").read_text())["data"]["loading"]["batch_size"]
    return size


def sample_snapshots(out: Path, images: int, steps: int) -> Iterator[tuple[float, Pixels]]:
    """Yield the training time of each snapshot and its samples, uint8 (N, C, H, W)."""
    denoiser = load_denoiser(out / "run")
    snapshots = sorted((out / "snapshots").glob("*.pt"))
    for snapshot, count in zip(snapshots, images_per_snapshot(len(snapshots), images), strict=True):
        denoiser.load_state_dict(torch.load(snapshot, weights_only=True))
        samples = DiffusionSampler(denoiser).sample(count, seed=0, sampler=DDIMSampler(steps=steps))
        yield float(snapshot.stem), to_pixels(samples)
