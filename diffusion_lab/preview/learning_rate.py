"""Range test of the learning rate (arXiv:1506.01186), by Lightning's Tuner, with a suggestion that suits noisy losses.

Lightning suggests the steepest descent over the learning rate itself, where the noise of the first steps wins, which
hardly differ. In diffusion models the loss falls fastest when the output layer, which starts at zero, makes its first
steps, at far too low a rate. The suggestion here is a third of the rate at which the smoothed loss is lowest.
"""

from __future__ import annotations

import io
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.tuner import lr_finder
from lightning.pytorch.tuner.tuning import Tuner
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

NEVER = 2**31
"""Number of epochs between validations that are not made."""

DIVERGED = 3.0
"""The test ends when the smoothed loss is this many times its minimum."""

WINDOW = 0.25
"""Width over which losses are averaged, in powers of ten of the learning rate."""


SHARE = 1 / 3
"""Suggested fraction of the rate with the lowest loss: above that rate the training becomes unstable."""

LEAST_FALL = 0.02
"""Fraction by which the loss must fall for a suggestion."""


@dataclass(frozen=True)
class RangeTest:
    """Losses of steps with a rising learning rate.

    Attributes:
        rates: Learning rate of each step, rising.
        losses: Loss of each step.
        smooth: Losses averaged over neighbouring steps.
        suggestion: A third of the rate with the lowest loss; None if the loss does not fall.
    """

    rates: Sequence[float]
    losses: Sequence[float]
    smooth: Sequence[float]
    suggestion: float | None


def measure_losses(run: PreparedRun) -> RangeTest:
    """Make optimizer steps at rising learning rates; the run's objects must not be used for training afterwards.

    Raises:
        MemoryError: A training step does not fit into memory.
    """
    with (
        tempfile.TemporaryDirectory(prefix="diffusion_lab-") as name,
        quiet_lightning(),
        warnings.catch_warnings(),
        explain_out_of_memory("a training step", SAVING_MEMORY),
        explain_worker_failures(),
        cpu_optimizations(run.device),
        use_threads(run.threads),
        _bar_on_terminals_only(),
    ):
        warnings.filterwarnings("ignore", module="lightning")
        folder = RunFolder(Path(name), Path(name), Path(name), Path(name))
        trainer = create_trainer(run.config, run.device, [], [], folder, 1_000_000, TorchCheckpointIO())
        # Lightning records a loss where the batches of a step are complete, counted within the epoch.
        accumulate = min(run.config.training.accumulate_batches, run.data.steps_per_epoch)
        trainer.accumulate_grad_batches = accumulate
        trainer.limit_train_batches = run.data.steps_per_epoch // accumulate * accumulate
        trainer.check_val_every_n_epoch = NEVER
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
    # The trainer divides the loss of a batch by the number of batches of a step.
    return evaluate(finder.results["lr"], [loss * accumulate for loss in finder.results["loss"]])


@contextmanager
def _bar_on_terminals_only() -> Iterator[None]:
    """Draw Lightning's progress bar only on a terminal."""
    with mock.patch.object(lr_finder, "tqdm", partial(lr_finder.tqdm, disable=None)):  # type: ignore[attr-defined]
        yield


def evaluate(rates: Sequence[float], smoothed: Sequence[float]) -> RangeTest:
    """Return the losses of a range test and the rate that learns fastest.

    Args:
        rates: Learning rate of each step, rising.
        smoothed: Running mean of the losses, as Lightning records it.
    """
    losses = raw_losses(smoothed)
    kept = np.isfinite(losses)
    positions, losses = np.log10(np.asarray(rates)[: len(losses)][kept]), losses[kept]
    smooth = smoothed_over(positions, np.minimum(losses, 1.5 * np.median(losses[: len(losses) // 4 + 1])))
    return RangeTest(tuple(10**positions), tuple(losses), tuple(smooth), _suggestion(positions, smooth))


def raw_losses(smoothed: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return the losses of single steps from Lightning's running mean, which lags fifty steps behind."""
    decay = 0.98
    steps = np.arange(len(smoothed)) + 2
    sums = np.asarray(smoothed) * (1 - decay**steps)
    losses: np.ndarray[tuple[int], np.dtype[np.float64]] = (sums - decay * np.concatenate([[0.0], sums[:-1]])) / (
        1 - decay
    )
    return losses


def smoothed_over(
    positions: np.ndarray[tuple[int], np.dtype[np.float64]], losses: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return the local linear fit of losses at their positions, with Gaussian weights of width ``WINDOW``."""
    smooth = np.empty_like(losses)
    for index, position in enumerate(positions):
        offsets = positions - position
        weights = np.exp(-0.5 * (offsets / WINDOW) ** 2)
        moments = [float((weights * offsets**power).sum()) for power in range(3)]
        determinant = moments[0] * moments[2] - moments[1] ** 2
        level, trend = float((weights * losses).sum()), float((weights * offsets * losses).sum())
        smooth[index] = (moments[2] * level - moments[1] * trend) / determinant if determinant > 0 else losses[index]
    return smooth


def _suggestion(
    positions: np.ndarray[tuple[int], np.dtype[np.float64]], smooth: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> float | None:
    """Return a third of the rate with the lowest loss; None if the loss never falls."""
    lowest = int(np.argmin(smooth))
    if smooth[lowest] > (1 - LEAST_FALL) * smooth[: max(lowest // 2, 1)].max():
        return None
    return float(f"{10 ** positions[lowest] * SHARE:.2g}")


def draw_range_test(test: RangeTest, experiment: str, current: float) -> Image.Image:
    """Draw the losses over the learning rate, with the suggestion and the configured rate marked."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.6), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(test.rates, test.losses, ".", color="#b3c6e3", markersize=5, label="loss of one step")
    axes.plot(test.rates, test.smooth, color="#24456f", linewidth=2, label="smoothed")
    axes.axvline(current, color="0.45", linestyle=(0, (3, 3)), linewidth=1.2, label=f"configured: {current:g}")
    if test.suggestion is not None:
        height = float(np.interp(np.log10(test.suggestion), np.log10(test.rates), test.smooth))
        axes.plot(
            [test.suggestion], [height], "o", color="#c2410c", markersize=10, label=f"suggested: {test.suggestion:g}"
        )
    low, first = min(test.losses), max(test.losses[: max(len(test.losses) // 4, 1)])
    span = max(first - low, 0.1 * abs(first), 1e-9)
    axes.set(xscale="log", ylim=(low - 0.1 * span, first + 0.5 * span))
    axes.set(xlabel="learning rate, raised at each step", ylabel="training loss", title=f"{experiment}: range test")
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer).convert("RGB")
