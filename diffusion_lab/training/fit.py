"""A training run from its settings: check everything, train, summarize."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from rich.console import Console

from diffusion_lab.checkpoint.files import OWN_CHECKSUMS
from diffusion_lab.checkpoint.ownership import adopt, format_paths, unrecognized_entries
from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.config.validate import check_ready_to_start
from diffusion_lab.console.terminal import resilient_stderr
from diffusion_lab.cpu import cpu_optimizations
from diffusion_lab.data.workers import explain_worker_failures
from diffusion_lab.networks.cost import count_parameters
from diffusion_lab.runs.folder import Purpose, RunFolder, RunStopped
from diffusion_lab.runtime.determinism import deterministic
from diffusion_lab.runtime.devices import use_threads
from diffusion_lab.runtime.memory import explain_out_of_memory, peak_bytes
from diffusion_lab.training.callbacks import (
    Evaluation,
    GracefulStop,
    RunFolderGuard,
    TrainingLimits,
    TrainingMonitor,
    TrainingProgress,
)
from diffusion_lab.training.callbacks.evaluation import Cost
from diffusion_lab.training.callbacks.order import in_order
from diffusion_lab.training.conclusion import log_checkpoints, log_results, log_strips
from diffusion_lab.training.console import (
    log_lines,
    print_and_log,
    print_complete,
    print_end,
    print_line,
    print_resume_source,
    print_run,
    print_stopped,
    print_summary,
)
from diffusion_lab.training.create import create_trainer
from diffusion_lab.training.disk_space import check_disk_space
from diffusion_lab.training.loggers import wandb_id
from diffusion_lab.training.prepare import PreparedRun, prepare_run
from diffusion_lab.training.recording import recording
from diffusion_lab.training.restore_errors import RestoreErrors
from diffusion_lab.training.resume_source import ResumeSource, find_resume_source
from diffusion_lab.training.signals import StopRequest, handle_signals
from diffusion_lab.training.single_process import as_rank_zero
from diffusion_lab.training.summary import TrainingSummary
from diffusion_lab.typed_settings.section import duration_of

SAVING_MEMORY = (
    "lower data.loading.batch_size (training.accumulate_batches=N makes one optimizer step of N batches), or set "
    "training.performance.gradient_checkpointing=true or training.performance.precision=auto"
)
"""Advice for when a training step runs out of memory."""


def train(config: TrainConfig, console: Console | None = None) -> TrainingSummary | None:
    """Train a model.

    Errors in the settings, the images or the checkpoint to resume from are raised before the run folder is created.

    Args:
        config: The checked settings.
        console: Console for progress; standard error if None.

    Returns:
        The summary. If the run to resume is already complete, the summary it wrote earlier, or None if there is none.

    Raises:
        ValueError, FileNotFoundError, PermissionError: Naming the key, the value and the rule; the settings ask for a
            preview, which is not a run.
        RunStopped: A signal stopped the run.
    """
    console = console or Console(stderr=True)
    if not config.is_trained:
        raise ValueError("preview and tune must be false to train: diffusion_lab.preview does what they ask for")
    check_ready_to_start(config)
    folder = RunFolder.from_settings(config.output)
    with resilient_stderr(), handle_signals() as stop, deterministic(config.compute.deterministic), as_rank_zero():
        try:
            return _train(config, folder, console, stop)
        except RunStopped as stopped:
            print_stopped(console, folder, stopped, config.training.resume)
            raise


def _train(config: TrainConfig, folder: RunFolder, console: Console, stop: StopRequest) -> TrainingSummary | None:
    stamp = folder.stamp()
    resumed = find_resume_source(config, folder)
    source = resumed[0] if resumed else None
    purpose = purpose_of(config, folder, source)
    folder.check_free(purpose)
    if source is not None and source.is_complete(config):
        earlier = None if source.foreign else TrainingSummary.read(source.run_folder)
        # A run in this folder that was killed after its last step still needs its summary.
        if earlier is not None or purpose != "continue" or not source.is_at_the_end(config):
            print_complete(console, config, source)
            return earlier
    run_id = source.run_id if purpose == "continue" and source else None
    folder = replace(folder, run_id=run_id or secrets.token_hex(8))
    run = prepare_run(config, folder, resumed, console)
    del resumed  # frees the weights
    folder.check_obstacles(purpose, run.steps, run.epochs)
    check_disk_space(run.config, run.module, folder.checkpoints, run.epochs, replaces=purpose == "replace")
    folder = replace(folder, facts=run.facts)
    with folder.claim(stamp):
        folder.create(run.settings, keep=purpose == "continue")
        if purpose == "continue":
            _list_checkpoints(run, folder, console)
        summary = _fit(run, folder, purpose, console, stop)
    print_summary(summary, console)
    if stop.received is not None:
        raise stop.stopped(summary.steps)
    return summary


def purpose_of(config: TrainConfig, folder: RunFolder, source: ResumeSource | None) -> Purpose:
    """Return what the run does with its folder: continue the run in it, replace its content, or fill it."""
    if source is not None and not source.foreign and folder.contains(source.path):
        return "continue"
    resume = config.training.resume
    may_replace = config.output.overwrite or (resume.enabled and resume.checkpoint == "auto")
    return "replace" if may_replace else "new"


def _list_checkpoints(run: PreparedRun, folder: RunFolder, console: Console) -> None:
    """Write the manifest of the checkpoint to resume from if it is missing, and print which files stay untouched."""
    assert run.source is not None
    if adopt(run.source.path.resolve(), folder.status.get("run"), folder.run_id):
        print_line(console, f"{run.source.path} had no manifest: it was verified by {OWN_CHECKSUMS}, and has one now.")
    others = unrecognized_entries(folder.checkpoints, folder.run_id)
    if others:
        print_line(console, f"left alone, because no manifest says that this run wrote it: {format_paths(others)}.")


def _fit(run: PreparedRun, folder: RunFolder, purpose: Purpose, console: Console, stop: StopRequest) -> TrainingSummary:
    """Train, and write the summary."""
    parts = _create_parts(run, folder, console, stop)
    with recording(run, folder, purpose, console, stop) as loggers:
        run.module.metadata["wandb_id"] = wandb_id(loggers)
        run.module.metadata["run_id"] = folder.run_id
        trainer = create_trainer(run.config, run.device, parts.in_order(run), loggers, folder, run.last_epoch)
        _print_start(run, folder, console)
        started = time.monotonic()
        with _training(run, parts.restoration):
            trainer.fit(run.module, datamodule=run.data, ckpt_path=parts.restoration.path, weights_only=True)
        seconds = time.monotonic() - started
        if (reason := parts.limits.reason(trainer)) is not None:
            print_end(console, reason, trainer.global_step)
        summary = _summarize(run, folder, trainer, parts, seconds)
        parts.folder_guard.restore()
        summary.write()
        _log_conclusion(run, trainer, summary, loggers, console, stop)
    return summary


def _log_conclusion(
    run: PreparedRun,
    trainer: Trainer,
    summary: TrainingSummary,
    loggers: list[Logger],
    console: Console,
    stop: StopRequest,
) -> None:
    """Log what is known at the end; after a signal only numbers, since the process must end soon."""
    log_results(loggers, summary)
    if stop.received is None:
        if run.config.training.visualization.enabled:
            log_strips(loggers, run.module, trainer.global_step - 1, console)
        if run.config.logger.log_checkpoints:
            log_checkpoints(loggers, summary)


@dataclass(frozen=True)
class _Parts:
    """Callbacks that belong to the process of a run: its folder, console and signals."""

    folder_guard: RunFolderGuard
    monitor: TrainingMonitor
    evaluation: Evaluation | None
    progress: TrainingProgress
    restoration: RestoreErrors
    limits: TrainingLimits
    graceful_stop: GracefulStop

    def in_order(self, run: PreparedRun) -> list[Callback]:
        """Return all callbacks of the run in the order of their hooks."""
        own = [self.folder_guard, self.monitor, self.progress, self.restoration, self.limits, self.graceful_stop]
        return in_order([*own, *([self.evaluation] if self.evaluation else []), run.checkpoints, *run.callbacks])


def _create_parts(run: PreparedRun, folder: RunFolder, console: Console, stop: StopRequest) -> _Parts:
    training = run.config.training
    watch = training.watch
    max_time = None if training.max_time is None else duration_of(training.max_time)
    limits = TrainingLimits(run.checkpoints, training.max_steps, max_time, done=not run.steps)
    return _Parts(
        RunFolderGuard(folder, run.settings, console),
        TrainingMonitor(watch.skip_non_finite, watch.spike_factor, training.log_interval, console),
        _create_evaluation(run, console, stop),
        TrainingProgress(console, training.validation.logged_metric, limits, run.steps.stop - 1),
        RestoreErrors(run.source.path if run.source and not run.source.foreign else None),
        limits,
        GracefulStop(stop, run.checkpoints),
    )


def _create_evaluation(run: PreparedRun, console: Console, stop: StopRequest) -> Evaluation | None:
    if run.evaluation is None:
        return None
    every_epochs = run.config.evaluation.interval(run.last_epoch)
    cost = Cost(run.began, run.evaluation.preparation_seconds)
    return Evaluation(run.evaluation, every_epochs, partial(print_and_log, console), stop, cost)


def _print_start(run: PreparedRun, folder: RunFolder, console: Console) -> None:
    print_run(console, run, folder)
    print_resume_source(console, run.config, folder, run.source)
    log_lines(run.data.remarks.lines())
    for note in run.notes:
        print_and_log(console, note)


@contextlib.contextmanager
def _training(run: PreparedRun, restoration: RestoreErrors) -> Iterator[None]:
    """Set threads and memory for training, and explain its failures."""
    with (
        restoration.explaining(),
        explain_out_of_memory("a training step", SAVING_MEMORY),
        explain_worker_failures(),
        cpu_optimizations(run.device),
        use_threads(run.threads),
    ):
        yield


def _summarize(run: PreparedRun, folder: RunFolder, trainer: Trainer, parts: _Parts, seconds: float) -> TrainingSummary:
    best = run.checkpoints.best
    return TrainingSummary(
        run_folder=str(folder.base),
        epochs=trainer.current_epoch - parts.limits.ended_within_epoch,
        steps=trainer.global_step,
        parameters=count_parameters(run.denoiser),
        forward_flops=run.flops,
        threads=run.threads,
        train_images=len(run.data.train),
        metric=run.checkpoints.metric.name,
        mode=run.checkpoints.metric.mode,
        best_value=best,
        best_epoch=run.checkpoints.best_epoch,
        best_checkpoint=None if best is None else _existing_path(run.checkpoints.best_path),
        last_checkpoint=_existing_path(run.checkpoints.last_path),
        train_seconds=round(seconds, 2),
        images_per_second=round(parts.progress.images_per_second, 1),
        peak_memory_mb=round(peak_memory(run.device) / 2**20, 1),
        config_hash=run.module.metadata["config_hash"],
        data_fingerprint=run.module.metadata["data_fingerprint"],
        validation_fingerprint=run.module.metadata["validation_fingerprint"],
        left_out=run.data.remarks.counts(),
        evaluation=None if parts.evaluation is None else parts.evaluation.summary,
    )


def _existing_path(file: Path | None) -> str | None:
    """Return the path of a file if it exists, else None."""
    return str(file) if file is not None and file.is_file() else None


def peak_memory(device: torch.device) -> int:
    """Return the peak memory in bytes: that of torch's tensors on a GPU, else that of the process."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_bytes()
