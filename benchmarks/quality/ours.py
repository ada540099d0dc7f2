"""Ours: `train.py` with a folder, the number of epochs that the time allows, and nothing else typed."""

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
from benchmarks.quality.program import images_of
from benchmarks.quality.stopwatch import Stopwatch
from diffusion_lab import DiffusionSampler, load_denoiser
from diffusion_lab.samplers import DDIMSampler
from diffusion_lab.shapes import Pixels, to_pixels
from diffusion_lab.training.module import DiffusionModule

ROOT = Path(__file__).resolve().parents[2]
VARIABLE = "QUALITY_SNAPSHOTS"
"""Folder and seconds for the callback, which Hydra makes without arguments."""

PROBE_EPOCHS = 2


class Snapshots(Callback):
    """Keeps the averaged weights at the marks of a stopwatch, and at the end."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, DiffusionModule)
        told = json.loads(os.environ[VARIABLE])
        folder = Path(told["folder"])

        def keep(seconds: float) -> None:
            torch.save(pl_module.eval_denoiser.state_dict(), folder / f"{seconds:09.2f}.pt")

        self.watch = Stopwatch(told["seconds"], keep)

    def on_train_batch_end(self, *_: Any) -> None:
        self.watch.tick()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.watch.keep_now()


def train(folder: Path, out: Path, seconds: float, arguments: list[str]) -> None:
    """Train for about so long, and leave a snapshot of each mark in ``out``."""
    probe = _run(folder, out / "probe", PROBE_EPOCHS, arguments)
    epochs = max(int(seconds / (probe["train_seconds"] / PROBE_EPOCHS)), 1)
    snapshots = out / "snapshots"
    snapshots.mkdir()
    told = json.dumps({"folder": str(snapshots), "seconds": seconds})
    own = ["training.callbacks=[benchmarks.quality.ours.Snapshots]", *arguments]
    _run(folder, out / "run", epochs, own, {VARIABLE: told})


def _run(
    folder: Path, run: Path, epochs: int, arguments: list[str], environment: dict[str, str] | None = None
) -> dict[str, Any]:
    words = ["data=image_folder", f"data.paths.train={folder}", f"training.epochs={epochs}", f"output.base_dir={run}"]
    words += ["logger=none", "compute.device=cpu", f"compute.threads={torch.get_num_threads()}", *arguments]
    print_progress(f"  train.py {' '.join(words)}")
    subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *words],
        check=True,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.DEVNULL,
    )
    summary: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return summary


def parameters(out: Path) -> int:
    """Number of parameters of the network."""
    count: int = json.loads((out / "run" / "summary.json").read_text())["parameters"]
    return count


def batch_size(out: Path) -> int:
    """Images of a batch, as the defaults have it."""
    import yaml

    size: int = yaml.safe_load((out / "run" / "config.yaml").read_text())["data"]["loading"]["batch_size"]
    return size


def draw(out: Path, images: int, steps: int) -> Iterator[tuple[float, Pixels]]:
    """Yield the seconds of training of each snapshot, and images of it as uint8 (N, C, H, W)."""
    denoiser = load_denoiser(out / "run")
    snapshots = sorted((out / "snapshots").glob("*.pt"))
    for snapshot, count in zip(snapshots, images_of(len(snapshots), images), strict=True):
        denoiser.load_state_dict(torch.load(snapshot, weights_only=True))
        made = DiffusionSampler(denoiser).sample(count, seed=0, sampler=DDIMSampler(steps=steps))
        yield float(snapshot.stem), to_pixels(made)
