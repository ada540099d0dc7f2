"""Speed and memory with growing batches, and the size that they suggest.

Lightning's finder does not fit: it doubles the size until memory runs out. On a CPU nothing is raised then, the system
kills the program; and it does not tell from which size on a larger batch is no faster.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.cpu import cpu_optimizations
from diffusion_lab.data.workers import explain_worker_failures
from diffusion_lab.preview.show import memory_of
from diffusion_lab.preview.stopwatch import Stopwatch
from diffusion_lab.runs.folder import RunFolder
from diffusion_lab.runtime.devices import use_threads
from diffusion_lab.runtime.memory import explain_out_of_memory
from diffusion_lab.training.callbacks import EMACallback
from diffusion_lab.training.console import print_line, quiet_lightning
from diffusion_lab.training.create import create_trainer
from diffusion_lab.training.fit import SAVING_MEMORY, peak_memory
from diffusion_lab.training.prepare import PreparedRun, threads_of_run

SMALLEST, LARGEST = 8, 8192
SECONDS, FEWEST_BATCHES, PATIENCE = 2.5, 3, 30.0
"""How long batches of each size are timed."""

AS_FAST = 0.95
"""Fraction of the best speed that counts as just as fast."""

MOST_MEMORY = 0.8
"""Fraction of the memory that the next size may be expected to take."""


@dataclass(frozen=True)
class Trial:
    """Batch size, and what it gave: images per second, and peak memory in bytes."""

    size: int
    images_per_second: float
    peak_memory: int


def try_sizes(run: PreparedRun, console: Console) -> list[Trial]:
    """Train for a few seconds with each batch size; the run's objects must not be used for training afterwards.

    It ends at a size that does not fit into memory, or probably would not, or when larger ones are no longer faster.

    Raises:
        MemoryError: The smallest size does not fit.
    """
    trials: list[Trial] = []
    configured = run.data.batch_size
    for size in sizes_to_try(len(run.data.train), configured):
        if is_enough(trials, configured) or expected_memory(trials, size) > MOST_MEMORY * memory_of(run.device):
            break
        try:
            trials.append(_try(run, size))
        except MemoryError:
            if not trials:
                raise
            print_line(console, f"batch size {size:,}: does not fit into memory")
            break
        print_line(console, f"batch size {size:,}: {trials[-1].images_per_second:,.0f} images/s")
    return trials


def sizes_to_try(images: int, configured: int) -> list[int]:
    """Return powers of two and the configured size, at most the number of images.

    >>> sizes_to_try(100, 48)
    [8, 16, 32, 48, 64]
    """
    powers = [2**power for power in range(SMALLEST.bit_length() - 1, LARGEST.bit_length())]
    return sorted({size for size in (*powers, configured) if size <= images} or {images})


def is_enough(trials: Sequence[Trial], configured: int) -> bool:
    """Return whether the last two sizes, at least the configured one, were no faster than smaller ones."""
    if len(trials) < 3 or trials[-1].size < configured:
        return False
    earlier = max(trial.images_per_second for trial in trials[:-2])
    return all(trial.images_per_second < earlier / AS_FAST for trial in trials[-2:])


def expected_memory(trials: Sequence[Trial], size: int) -> float:
    """Return the memory that a size will probably take, by the growth between the last two; 0 if unknown."""
    if len(trials) < 2:
        return 0.0
    before, last = trials[-2:]
    slope = (last.peak_memory - before.peak_memory) / (last.size - before.size)
    return last.peak_memory + slope * (size - last.size)


def suggested_size(trials: Sequence[Trial], configured: int) -> int:
    """Return the smallest size that is as fast as the best one; the configured one if that is.

    >>> trials = [Trial(8, 50, 0), Trial(16, 97, 0), Trial(32, 100, 0)]
    >>> suggested_size(trials, configured=32), suggested_size(trials, configured=8)
    (32, 16)
    """
    best = max(trial.images_per_second for trial in trials)
    fast = [trial.size for trial in trials if trial.images_per_second >= AS_FAST * best]
    return configured if configured in fast else min(fast)


def with_batch_size(config: TrainConfig, size: int) -> TrainConfig:
    """Return settings with another batch size."""
    loading = config.data.loading.model_copy(update={"batch_size": size})
    return config.model_copy(update={"data": config.data.model_copy(update={"loading": loading})})


def _try(run: PreparedRun, size: int) -> Trial:
    gc.collect()
    if run.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(run.device)
    run.data.batch_size = size
    stopwatch = Stopwatch(run.device, SECONDS, FEWEST_BATCHES, PATIENCE)
    averaging = [callback for callback in run.callbacks if isinstance(callback, EMACallback)]
    config = with_batch_size(run.config, size)
    with (
        tempfile.TemporaryDirectory(prefix="diffusion_lab-") as name,
        quiet_lightning(),
        explain_out_of_memory("a training step", SAVING_MEMORY),
        explain_worker_failures(),
        cpu_optimizations(run.device),
        use_threads(threads_of_run(config, run.device, run.flops)),
    ):
        folder = RunFolder(Path(name), Path(name), Path(name), Path(name))
        trainer = create_trainer(config, run.device, [*averaging, stopwatch], [], folder, 1_000_000)
        trainer.limit_val_batches = 0
        trainer.fit(run.module, datamodule=run.data)
    return Trial(size, stopwatch.images_per_second, peak_memory(run.device))
