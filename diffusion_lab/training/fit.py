"""A training run from its settings: check everything, train, sum up."""

from __future__ import annotations

import secrets
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from rich.console import Console

from diffusion_lab.checkpoint.files import OWN_CHECKSUMS
from diffusion_lab.checkpoint.ownership import adopt, left_alone, named
from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.config.validate import refuse_to_start
from diffusion_lab.data.workers import naming_lost_workers
from diffusion_lab.determinism import deterministic
from diffusion_lab.devices import computing_with
from diffusion_lab.memory import explaining_too_little_memory, freed_memory_kept, peak_bytes
from diffusion_lab.networks.cost import count_parameters
from diffusion_lab.redaction import secret_values
from diffusion_lab.run_folder import Purpose, RunFolder, RunStopped
from diffusion_lab.terminal import lasting_stderr
from diffusion_lab.training.build import create_trainer
from diffusion_lab.training.callbacks import Evaluation, FolderRestoration, Stopping, TrainingProgress, Watch
from diffusion_lab.training.callbacks.evaluation import Cost
from diffusion_lab.training.disk_space import refuse_full_disk
from diffusion_lab.training.loggers import Continuation, open_loggers, wandb_id
from diffusion_lab.training.one_process import as_rank_zero
from diffusion_lab.training.origin import Origin, find_origin
from diffusion_lab.training.preparation import PreparedRun, prepare_run
from diffusion_lab.training.restoration import Restoration
from diffusion_lab.training.resume import same_results
from diffusion_lab.training.signals import StopRequest, stoppable
from diffusion_lab.training.summary import TrainingSummary
from diffusion_lab.training.watching import naming_last_good
from diffusion_lab.training.words import (
    announce,
    announce_origin,
    quiet,
    record,
    say,
    say_and_log,
    show,
    tell_complete,
    tell_stopped,
)


def train(config: TrainConfig, console: Console | None = None) -> TrainingSummary | None:
    """Train a model.

    Everything that can be wrong with the settings, the images or the checkpoint to resume from is found before the
    run folder is made.

    Args:
        config: The checked settings.
        console: Where to show progress; standard error where None.

    Returns:
        The summary; that of the earlier run, None where it left none, if the run to resume is complete already.

    Raises:
        ValueError, FileNotFoundError, PermissionError: Naming the key, the value and the rule.
        RunStopped: A signal asked for it.
    """
    console = console or Console(stderr=True)
    refuse_to_start(config)
    folder = RunFolder.of(config.output)
    with lasting_stderr(), stoppable() as stop, deterministic(config.compute.deterministic), as_rank_zero():
        try:
            return _train(config, folder, console, stop)
        except RunStopped as stopped:
            tell_stopped(console, folder, stopped, config.training.resume)
            raise


def _train(config: TrainConfig, folder: RunFolder, console: Console, stop: StopRequest) -> TrainingSummary | None:
    stamp = folder.stamp()
    resume = config.training.resume
    found = find_origin(config, folder)
    origin = found[0] if found else None
    continued = origin is not None and not origin.foreign and folder.holds(origin.path)
    may_replace = config.output.overwrite or (resume.enabled and resume.checkpoint == "auto")
    purpose: Purpose = "continue" if continued else "replace" if may_replace else "new"
    folder.check_free(purpose)
    if origin is not None and origin.is_complete(config):
        earlier = None if origin.foreign else TrainingSummary.read(origin.run_folder)
        # Of a run in this folder that was killed after its last step, the summary still has to be written.
        if earlier is not None or not continued or not origin.is_at_the_end(config):
            tell_complete(console, config, origin)
            return earlier
    run_id = origin.run_id if continued and origin else None
    folder = replace(folder, run_id=run_id or secrets.token_hex(8))
    run = prepare_run(config, folder, found, console)
    del found  # the weights
    folder.check_places(purpose, run.steps, run.epochs)
    refuse_full_disk(run.config, run.module, folder.checkpoints, run.epochs, replaces=purpose == "replace")
    with folder.claimed(stamp):
        folder.create(run.settings, keep=continued)
        if continued:
            _list_checkpoints(run, folder, console)
        summary = _fit(run, folder, console, stop, _continuation(origin, run.config) if continued and origin else None)
    show(summary, console)
    if stop.received is not None:
        raise stop.stopped(summary.steps)
    return summary


SAVING_MEMORY = (
    "lower data.loading.batch_size (training.accumulate_batches=N makes one optimizer step of N batches), or set "
    "training.performance.gradient_checkpointing=true or training.performance.precision=auto"
)
"""What to do where a step does not fit."""


def _list_checkpoints(run: PreparedRun, folder: RunFolder, console: Console) -> None:
    """Give the checkpoint to resume from a manifest if it lacks one, and name what is left alone."""
    assert run.origin is not None
    if adopt(run.origin.path.resolve(), folder.status.get("run"), folder.run_id):
        say(console, f"{run.origin.path} had no manifest: it was verified by {OWN_CHECKSUMS}, and has one now.")
    others = left_alone(folder.checkpoints, folder.run_id)
    if others:
        say(console, f"left alone, because no manifest says that this run wrote it: {named(others)}.")


def _continuation(origin: Origin, config: TrainConfig) -> Continuation:
    return Continuation(origin.step or 0, origin.wandb_id, same_results(config, origin))


def _fit(
    run: PreparedRun, folder: RunFolder, console: Console, stop: StopRequest, continued: Continuation | None
) -> TrainingSummary:
    config = run.config
    progress = TrainingProgress(console, config.training.validation.logged_metric)
    watched, every = config.training.watch, config.training.log_interval
    watch = Watch(watched.skip_non_finite, watched.spike_factor, every, console)
    restoration = Restoration(run.origin.path if run.origin and not run.origin.foreign else None)
    kept = FolderRestoration(folder, run.settings, console)
    evaluation = _evaluation(run, console, stop)
    before_progress = [kept, *run.callbacks, watch, *([evaluation] if evaluation else [])]
    callbacks = [*before_progress, progress, run.checkpoints, Stopping(stop, run.checkpoints), restoration]
    with (
        folder.running(secret_values(config.model_dump(mode="json"), sys.argv)),
        naming_last_good(folder.base),
        open_loggers(
            config.logger,
            folder.logs,
            config.experiment,
            folder.base.resolve().name,
            run.settings,
            continued,
            console,
            stop,
            (config.training.validation.logged_metric,),
        ) as loggers,
        quiet(),
    ):
        run.module.about["wandb_id"] = wandb_id(loggers)
        run.module.about["run_id"] = folder.run_id
        trainer = create_trainer(config, run.device, callbacks, loggers, folder)
        announce(console, run, folder)
        announce_origin(console, config, folder, run.origin)
        record(run.data.remarks.lines())
        for note in run.notes:
            say_and_log(console, note)
        started = time.monotonic()
        with (
            restoration.explaining(),
            explaining_too_little_memory("a training step", SAVING_MEMORY),
            naming_lost_workers(),
            freed_memory_kept(run.device),
            computing_with(run.threads),
        ):
            trainer.fit(run.module, datamodule=run.data, ckpt_path=restoration.path, weights_only=True)
        summary = _sum_up(run, folder, trainer, time.monotonic() - started, progress.images_per_second, evaluation)
        kept.restore()
        summary.write()
    return summary


def _evaluation(run: PreparedRun, console: Console, stop: StopRequest) -> Evaluation | None:
    if run.evaluation is None:
        return None
    every = run.config.evaluation.interval(run.config.training.epochs)

    def say_and_record(text: str) -> None:
        say(console, text)
        record([text])

    cost = Cost(run.began, run.evaluation.preparation_seconds)
    return Evaluation(run.evaluation, every, say_and_record, stop, cost)


def _sum_up(
    run: PreparedRun,
    folder: RunFolder,
    trainer: Trainer,
    seconds: float,
    images_per_second: float,
    evaluation: Evaluation | None,
) -> TrainingSummary:
    best = run.checkpoints.best
    return TrainingSummary(
        run_folder=str(folder.base),
        epochs=trainer.current_epoch,
        steps=trainer.global_step,
        parameters=count_parameters(run.denoiser),
        forward_flops=run.flops,
        threads=run.threads,
        train_images=len(run.data.train),
        metric=run.checkpoints.metric.name,
        mode=run.checkpoints.metric.mode,
        best_value=best,
        best_epoch=run.checkpoints.best_epoch,
        best_checkpoint=None if best is None else _text(run.checkpoints.best_path),
        last_checkpoint=_text(run.checkpoints.last_path),
        train_seconds=round(seconds, 2),
        images_per_second=round(images_per_second, 1),
        peak_memory_mb=round(_peak_memory_mb(run.device), 1),
        config_hash=run.module.about["config_hash"],
        data_fingerprint=run.module.about["data_fingerprint"],
        validation_fingerprint=run.module.about["validation_fingerprint"],
        left_out=run.data.remarks.counts(),
        evaluation=None if evaluation is None else evaluation.summary,
    )


def _text(file: Path | None) -> str | None:
    """The path of a file that is there, else None."""
    return str(file) if file is not None and file.is_file() else None


def _peak_memory_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return peak_bytes() / 2**20
