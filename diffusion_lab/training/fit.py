"""A training run from its settings: check everything, train, sum up."""

from __future__ import annotations

import secrets
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning.pytorch import Callback
from rich.console import Console

from diffusion_lab.checkpoint import Checkpoint
from diffusion_lab.checkpoint.files import OWN_CHECKSUMS
from diffusion_lab.checkpoint.ownership import adopt, left_alone, named
from diffusion_lab.config.faults import ConfigWarning
from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.create import create_denoiser
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.data.workers import naming_lost_workers
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.determinism import deterministic, seed_default_generators
from diffusion_lab.devices import computing_with, resolve_device
from diffusion_lab.memory import explaining_too_little_memory, freed_memory_kept, peak_bytes
from diffusion_lab.networks.cost import count_forward_flops, count_parameters
from diffusion_lab.redaction import redacted, secret_values
from diffusion_lab.run_folder import Purpose, RunFolder, RunStopped
from diffusion_lab.seeds import derive_seed
from diffusion_lab.terminal import lasting_stderr
from diffusion_lab.threads import choose_threads, free_cores
from diffusion_lab.training.build import (
    ScheduleSpan,
    create_callbacks,
    create_module,
    create_trainer,
    logged_metric,
    optimizer_steps,
    prepare,
)
from diffusion_lab.training.callbacks import (
    Checkpoints,
    FolderRestoration,
    Resumption,
    Stopping,
    TrainingProgress,
    Watch,
)
from diffusion_lab.training.classes import with_counted_classes
from diffusion_lab.training.loggers import Continuation, open_loggers, wandb_id
from diffusion_lab.training.module import DiffusionModule
from diffusion_lab.training.one_process import as_rank_zero
from diffusion_lab.training.origin import Origin, find_origin
from diffusion_lab.training.restoration import Restoration
from diffusion_lab.training.resume import Remainder, notes_of, plan_of, rate_note, remainder, same_results
from diffusion_lab.training.resume_checks import Comparison, compare, refuse_mismatch
from diffusion_lab.training.sigma_data import with_measured_sigma_data, with_sigma_data_of
from diffusion_lab.training.signals import StopRequest, stoppable
from diffusion_lab.training.sizes import refuse_outsized_run
from diffusion_lab.training.sources import class_names_of, create_datamodule
from diffusion_lab.training.summary import TrainingSummary
from diffusion_lab.training.wandb_mirror import refuse_unreachable
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
    warn_of_doubts,
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
    continued = origin is not None and folder.holds(origin.path)
    may_replace = config.output.overwrite or (resume.enabled and resume.checkpoint == "auto")
    purpose: Purpose = "continue" if continued else "replace" if may_replace else "new"
    folder.check_free(purpose)
    if origin is not None and origin.is_complete(config):
        earlier = TrainingSummary.read(origin.run_folder)
        # Of a run in this folder that was killed after its last step, the summary still has to be written.
        if earlier is not None or not continued or not origin.is_at_the_end(config):
            tell_complete(console, config, origin)
            return earlier
    run_id = origin.run_id if continued and origin else None
    folder = replace(folder, run_id=run_id or secrets.token_hex(8))
    run = _prepare(config, folder, found, console)
    del found  # the weights
    folder.check_places(purpose, run.steps, run.epochs)
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


@dataclass(frozen=True)
class _Run:
    """Everything that a run is made of."""

    config: TrainConfig
    settings: dict[str, Any]
    device: torch.device
    flops: int | None
    threads: int
    data: ImageDataModule
    denoiser: Denoiser
    module: DiffusionModule
    callbacks: Sequence[Callback]
    checkpoints: Checkpoints
    origin: Origin | None
    notes: Sequence[str]
    steps: range
    """Optimizer steps that are left to do, counted from 1 over the whole run."""

    @property
    def epochs(self) -> range:
        """Epochs that are left to do, counted from 1."""
        return range((self.origin.epochs_done or 0 if self.origin else 0) + 1, self.config.training.epochs + 1)


def _prepare(config: TrainConfig, folder: RunFolder, found: tuple[Origin, Checkpoint] | None, console: Console) -> _Run:
    """Make the parts of a run. What can be refused is refused here; nothing is written."""
    origin, checkpoint = found or (None, None)
    refuse_unreachable(config.logger)
    device = resolve_device(config.compute.device)
    refuse_outsized_run(config)
    seed = _seed(config, origin)
    seed_default_generators(derive_seed("weights", seed), device)
    data = create_datamodule(config, seed, class_names_of(checkpoint))
    config = with_counted_classes(config, data.class_names)
    config = with_measured_sigma_data(with_sigma_data_of(checkpoint, config), data.train)
    denoiser = create_denoiser(config.model, data.class_names)
    prepare(denoiser, config.training.performance, device)
    compared: Comparison | None = None
    left: Remainder | None = None
    if origin is not None and checkpoint is not None:
        compared = compare(checkpoint, config, data)
        refuse_mismatch(compared, denoiser)
        left = remainder(origin, config, data, compared.changes)
    plain = config.model_dump(mode="json")
    settings = redacted(plain, secret_values(plain, sys.argv))
    settings["compute"]["seed"] = seed
    flops = count_forward_flops(denoiser.network, denoiser.image_shape, denoiser.num_classes)
    threads = _threads(config, device, flops, checkpoint)
    module = create_module(config, denoiser, data, settings, _span(config, origin, left))
    module.about["threads"] = threads
    module.configure_optimizers()  # refuses values that the user's own class does not take
    warn_of_doubts(config, module, data, optimizer_steps(config, data))
    resumption, notes = _resumption(compared, left, console)
    callbacks, checkpoints = create_callbacks(config, denoiser, folder, seed, resumption)
    done = origin.step or 0 if origin else 0
    steps = range(done + 1, done + (left.steps if left else optimizer_steps(config, data)) + 1)
    return _Run(
        config, settings, device, flops, threads, data, denoiser, module, callbacks, checkpoints, origin, notes, steps
    )


def _resumption(
    compared: Comparison | None, left: Remainder | None, console: Console
) -> tuple[Resumption | None, list[str]]:
    """What restores a checkpoint, and what the user is told about it; nothing for a fresh start."""
    if compared is None or left is None:
        return None, []
    plan = plan_of(compared, left)

    def report_rate(then: float, now: float) -> None:
        note = rate_note(then, now, compared, left)
        if note is not None:
            say_and_log(console, note)

    return Resumption(plan, report_rate), notes_of(compared, plan, left)


def _span(config: TrainConfig, origin: Origin | None, left: Remainder | None) -> ScheduleSpan | None:
    """What the schedule of a resumed run is for: what is left where it begins anew, else what is done, too."""
    if origin is None or left is None:
        return None
    if config.training.resume.reset_scheduler:
        return ScheduleSpan(left.epochs, left.steps)
    return ScheduleSpan(config.training.epochs, (origin.step or 0) + left.steps)


def _list_checkpoints(run: _Run, folder: RunFolder, console: Console) -> None:
    """Give the checkpoint to resume from a manifest if it lacks one, and name what is left alone."""
    assert run.origin is not None
    if adopt(run.origin.path.resolve(), folder.status.get("run"), folder.run_id):
        say(console, f"{run.origin.path} had no manifest: it was verified by {OWN_CHECKSUMS}, and has one now")
    others = left_alone(folder.checkpoints, folder.run_id)
    if others:
        say(console, f"left alone, because no manifest says that this run wrote it: {named(others)}")


def _continuation(origin: Origin, config: TrainConfig) -> Continuation:
    return Continuation(origin.step or 0, origin.wandb_id, same_results(config, origin))


def _fit(
    run: _Run, folder: RunFolder, console: Console, stop: StopRequest, continued: Continuation | None
) -> TrainingSummary:
    config = run.config
    progress = TrainingProgress(console)
    watched, every = config.training.watch, config.training.log_interval
    watch = Watch(watched.skip_non_finite, watched.spike_factor, every, console)
    restoration = Restoration(run.origin.path if run.origin else None)
    kept = FolderRestoration(folder, run.settings, console)
    callbacks = [kept, *run.callbacks, watch, progress, run.checkpoints, Stopping(stop, run.checkpoints), restoration]
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
            (logged_metric(config),),
        ) as loggers,
        quiet(),
    ):
        run.module.about["wandb_id"] = wandb_id(loggers)
        run.module.about["run_id"] = folder.run_id
        trainer = create_trainer(config, run.device, callbacks, loggers, folder)
        announce(console, config, run.denoiser, run.flops, run.data, run.device, run.threads, folder)
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
        summary = TrainingSummary(
            run_folder=str(folder.base),
            epochs=trainer.current_epoch,
            steps=trainer.global_step,
            parameters=count_parameters(run.denoiser),
            forward_flops=run.flops,
            threads=run.threads,
            train_images=len(run.data.train),
            metric=logged_metric(config),
            best_value=run.checkpoints.best,
            best_epoch=run.checkpoints.best_epoch,
            best_checkpoint=str(run.checkpoints.best_path) if run.checkpoints.best is not None else None,
            last_checkpoint=str(run.checkpoints.last_path),
            train_seconds=round(time.monotonic() - started, 2),
            images_per_second=round(progress.images_per_second, 1),
            peak_memory_mb=round(_peak_memory_mb(run.device), 1),
            config_hash=run.module.about["config_hash"],
            data_fingerprint=run.module.about["data_fingerprint"],
            validation_fingerprint=run.module.about["validation_fingerprint"],
            left_out=run.data.remarks.counts(),
        )
        kept.restore()
        summary.write()
    return summary


def _seed(config: TrainConfig, origin: Origin | None) -> int:
    """The seed of the settings, else that of the run that goes on, else a new one."""
    if config.compute.seed is not None:
        return config.compute.seed
    if origin is not None and origin.seed is not None:
        return origin.seed
    return secrets.randbits(32)


def _threads(config: TrainConfig, device: torch.device, flops: int | None, resumed: Checkpoint | None) -> int:
    """The threads of the settings, else those of the checkpoint, since sums of other parts round differently."""
    if config.compute.threads != "auto":
        return config.compute.threads
    if device.type != "cpu":
        return torch.get_num_threads()
    before = resumed.about.get("threads") if resumed else None
    if isinstance(before, int) and 1 <= before <= torch.get_num_threads():
        if before > 1 and (free := round(free_cores())) < before:
            warnings.warn(
                f"compute.threads = auto takes {before} threads as this run did before, to give the same weights "
                f"bit by bit, but other programs leave only {free} free: compute.threads={max(free, 1)} may be faster",
                ConfigWarning,
                stacklevel=2,
            )
        return before
    loading = config.data.loading
    return choose_threads(
        None if flops is None else flops * loading.batch_size, torch.get_num_threads(), loading.num_workers
    )


def _peak_memory_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return peak_bytes() / 2**20
