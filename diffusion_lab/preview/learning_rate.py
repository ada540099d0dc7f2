"""Range test of the learning rate (arXiv:1506.01186): by Lightning's Tuner, with a suggestion that suits noisy losses.

Lightning suggests the steepest descent over the learning rate itself, where the first steps, which hardly differ, win by
their noise. Here it is the steepest descent over its logarithm, of a smoothed curve.
"""

from __future__ import annotations

import io
import math
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.tuner import Tuner
from PIL import Image

from diffusion_lab.cpu import cpu_optimizations
from diffusion_lab.data.workers import explain_worker_failures
from diffusion_lab.runs.folder import RunFolder
from diffusion_lab.runtime.devices import use_threads
from diffusion_lab.runtime.memory import explain_out_of_memory
from diffusion_lab.training.console import quiet_lightning
from diffusion_lab.training.create import create_trainer
from diffusion_lab.training.fit import SAVING_MEMORY
from diffusion_lab.training.prepare import PreparedRun

LOWEST, HIGHEST = 1e-6, 1.0
STEPS = 160
"""Optimizer steps of the test, each at its own learning rate."""

DIVERGED = 3.0
"""The test ends when the smoothed loss is this many times its minimum."""

WINDOW = 0.35
"""Width over which losses are averaged, in powers of ten of the learning rate."""


@dataclass(frozen=True)
class RangeTest:
    """Losses of steps with a rising learning rate.

    Attributes:
        rates: Learning rate of each step, rising.
        losses: Loss of each step.
        smooth: Losses averaged over neighbouring steps.
        suggestion: The rate at which the loss falls fastest; None if it does not fall.
    """

    rates: Sequence[float]
    losses: Sequence[float]
    smooth: Sequence[float]
    suggestion: float | None


def measure_losses(run: PreparedRun) -> RangeTest:
    """Make optimizer steps at rising learning rates; the weights are thrown away."""
    with (
        tempfile.TemporaryDirectory(prefix="diffusion_lab-") as name,
        quiet_lightning(),
        warnings.catch_warnings(),
        explain_out_of_memory("a training step", SAVING_MEMORY),
        explain_worker_failures(),
        cpu_optimizations(run.device),
        use_threads(run.threads),
    ):
        warnings.filterwarnings("ignore", module="lightning")
        folder = RunFolder(*[Path(name)] * 4)
        trainer = create_trainer(run.config, run.device, [], [], folder, 1_000_000, TorchCheckpointIO())
        finder = Tuner(trainer).lr_find(
            run.module,
            datamodule=run.data,
            min_lr=LOWEST,
            max_lr=HIGHEST,
            num_training=STEPS,
            early_stop_threshold=DIVERGED,
            update_attr=False,
        )
    assert finder is not None
    return evaluate(finder.results["lr"], finder.results["loss"])
