"""Rehearsal of a run: a few real steps, a validation, part of a sample grid, an evaluation and a checkpoint, timed.

Everything happens with the run's own objects in its own training loop, on a copy that is thrown away.
"""

from __future__ import annotations

import copy
import math
import secrets
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console

from diffusion_lab.checkpoint.files import step_name
from diffusion_lab.cpu import cpu_optimizations
from diffusion_lab.data.workers import explain_worker_failures
from diffusion_lab.faults import ConfigWarning
from diffusion_lab.preview.first_steps import FirstSteps, TimeIsUp
from diffusion_lab.preview.stopwatch import Stopwatch
from diffusion_lab.runs.folder import RunFolder
from diffusion_lab.runtime.devices import use_threads
from diffusion_lab.runtime.memory import explain_out_of_memory
from diffusion_lab.runtime.threads import usable_cores
from diffusion_lab.sampling.finite_samples import NonFiniteSamplesError
from diffusion_lab.training.callbacks import EMACallback, SampleImages, TrainingMonitor
from diffusion_lab.training.callbacks.order import in_order
from diffusion_lab.training.checkpoint_io import BackgroundCheckpointIO
from diffusion_lab.training.console import quiet_lightning
from diffusion_lab.training.create import create_trainer
from diffusion_lab.training.fit import SAVING_MEMORY, peak_memory
from diffusion_lab.training.module import DiffusionModule
from diffusion_lab.training.prepare import PreparedRun

MOST_VALIDATION_BATCHES = 8
"""Batches of a validation that are timed; a longer one is extrapolated."""

SAMPLED = 64
"""Images of an evaluation that are sampled; their time is extrapolated."""


@dataclass(frozen=True)
class Timing:
    """Durations in seconds, and sizes in bytes.

    Attributes:
        batches: Time of each timed training batch, with loading, optimizer step and EMA.
        warm_up: Time that the first batches took longer than later ones.
        between_epochs: Time between two epochs besides validation.
        validation: One validation; None without one.
        grid: One grid of sample images; None without one.
        evaluation: One evaluation of samples; None without one.
        checkpoint: Time that training waits for a checkpoint.
        checkpoint_bytes: Size of a checkpoint.
        peak_memory: Peak memory of the process, on a GPU that of torch's tensors.
    """

    batches: Sequence[float]
    warm_up: float
    between_epochs: float
    validation: float | None
    grid: float | None
    evaluation: float | None
    checkpoint: float
    checkpoint_bytes: int
    peak_memory: int

    @property
    def batch(self) -> float:
        """Mean time of a training batch."""
        return sum(self.batches) / len(self.batches)


def rehearse(run: PreparedRun, console: Console) -> Timing:
    """Measure the parts of a run. The run's objects must not be used for training afterwards.

    A folder in ``output.base_dir``, which must exist, holds a checkpoint meanwhile.

    Raises:
        MemoryError: A training step does not fit into memory.
        OSError: A checkpoint cannot be written.
    """
    with _temporary_folder(run.config.output.base_dir) as folder:
        rest = _TimeTheRest(run, folder)
        stopwatch = Stopwatch(run.device)
        watch = run.config.training.watch
        monitor = TrainingMonitor(watch.skip_non_finite, None, run.config.training.log_interval, console)
        averaging = [callback for callback in run.callbacks if isinstance(callback, EMACallback)]
        run.module.metadata["run_id"] = secrets.token_hex(8)
        with (
            quiet_lightning(),
            explain_out_of_memory("a training step", SAVING_MEMORY),
            explain_worker_failures(),
            cpu_optimizations(run.device),
            use_threads(run.threads),
        ):
            trainer = create_trainer(
                run.config,
                run.device,
                [*in_order([*averaging, monitor]), stopwatch, rest],
                [],
                RunFolder(folder, folder, folder, folder),
                run.last_epoch,
            )
            trainer.check_val_every_n_epoch = 1
            if run.data.val is not None:
                trainer.limit_val_batches = min(validation_batches(run), MOST_VALIDATION_BATCHES)
            trainer.fit(run.module, datamodule=run.data)
        return Timing(
            stopwatch.timed,
            stopwatch.warm_up,
            stopwatch.between_epochs,
            stopwatch.validation(validation_batches(run)),
            rest.grid,
            rest.evaluation,
            rest.checkpoint,
            rest.checkpoint_bytes,
            int(peak_memory(run.device)),
        )


def validation_batches(run: PreparedRun) -> int:
    """Return the number of batches of a validation."""
    return 0 if run.data.val is None else math.ceil(len(run.data.val) / run.data.batch_size)


@contextmanager
def _temporary_folder(parent: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=".preview-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _TimeTheRest(Callback):
    """Times a checkpoint, a grid of sample images and an evaluation at the end of the rehearsal."""

    def __init__(self, run: PreparedRun, folder: Path) -> None:
        self.run, self.folder = run, folder
        self.grid: float | None = None
        self.evaluation: float | None = None
        self.checkpoint = 0.0
        self.checkpoint_bytes = 0

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, DiffusionModule)
        self._time_checkpoint(trainer)
        try:
            with explain_out_of_memory("samples", "fewer of them need less"):
                self._time_samples(pl_module)
        except (NonFiniteSamplesError, MemoryError) as error:
            reason = error.finding if isinstance(error, NonFiniteSamplesError) else error
            text = f"samples could not be timed, so their time is missing in the estimate: {reason}"
            warnings.warn(text, ConfigWarning, stacklevel=2)

    def _time_samples(self, module: DiffusionModule) -> None:
        for callback in self.run.callbacks:
            if isinstance(callback, SampleImages):
                self.grid = time_grid(callback, module)
        if self.run.evaluation is not None:
            self.evaluation = self._time_evaluation(module)

    def _time_checkpoint(self, trainer: Trainer) -> None:
        writer = trainer.strategy.checkpoint_io
        assert isinstance(writer, BackgroundCheckpointIO)
        path = self.folder / step_name(trainer.global_step)
        began = time.perf_counter()
        trainer.save_checkpoint(path, weights_only=not self.run.config.training.checkpointing.save_optimizer)
        copied = time.perf_counter()
        writer.wait()
        written = time.perf_counter()
        # The file is written while training continues, on a core of its own if there is one.
        competes = self.run.device.type == "cpu" and self.run.threads >= usable_cores()
        self.checkpoint = (written if competes else copied) - began
        self.checkpoint_bytes = path.stat().st_size

    def _time_evaluation(self, module: DiffusionModule) -> float:
        assert self.run.evaluation is not None
        settings = self.run.evaluation.settings
        count = min(settings.num_samples, SAMPLED)
        part = copy.copy(self.run.evaluation)
        part.settings = settings.model_copy(update={"num_samples": count})
        part.labels = None if part.labels is None else part.labels[:: settings.num_samples // count][:count]
        laps = [time.perf_counter()]

        def lap() -> bool:
            laps.append(time.perf_counter())
            return False

        with warnings.catch_warnings(action="ignore", category=ConfigWarning):
            part.values(module.sampler, lap)
        metrics = time.perf_counter() - laps[-1]
        return (laps[-1] - laps[0]) * settings.num_samples / count + metrics


def time_grid(images: SampleImages, module: DiffusionModule) -> float:
    """Return the time of a grid of sample images in seconds, extrapolated from its first steps if it takes long."""
    classes = module.eval_denoiser.num_classes
    labels = None if classes is None else [index % classes for index in range(images.num_samples)]
    timed = FirstSteps(images.sampler)
    stream = module.sampler.stream(
        images.num_samples,
        labels,
        images.guidance_scale,
        sampler=timed,
        guidance=images.guidance,
        seed=images.seed,
        batch_size_name="the batch size of training.visualization",
    )
    began = time.perf_counter()
    try:
        first = next(iter(stream))
    except TimeIsUp:
        done = timed.images
        seconds = timed.seconds * timed.total / timed.done
    else:
        done, seconds = len(first.images), time.perf_counter() - began
    return seconds * images.num_samples / done
