"""Parts of a training run, created from its settings before anything is written."""

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
from lightning.pytorch.loggers import Logger
from rich.console import Console

from diffusion_lab.checkpoint import Checkpoint
from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.console.redaction import redacted, secret_values
from diffusion_lab.create import create_denoiser
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.faults import ConfigWarning
from diffusion_lab.networks.cost import count_forward_flops, count_parameters
from diffusion_lab.run_images.classes import with_counted_classes
from diffusion_lab.runs.folder import RunFolder
from diffusion_lab.runtime.determinism import seed_default_generators
from diffusion_lab.runtime.devices import device_name, resolve_device
from diffusion_lab.runtime.seeds import derive_seed
from diffusion_lab.runtime.threads import choose_threads, free_cores
from diffusion_lab.tracking.wandb_server import check_reachable
from diffusion_lab.training.callbacks import Checkpoints, ResumeOverrides
from diffusion_lab.training.console import print_and_log, warn_about_settings
from diffusion_lab.training.create import (
    ScheduleSpan,
    create_callbacks,
    create_evaluation,
    create_module,
    create_profiler,
    prepare_denoiser,
    run_length,
    steps_per_epoch,
)
from diffusion_lab.training.custom_objects import create_callbacks_of_settings, create_loggers_of_settings
from diffusion_lab.training.foreign_state import ForeignStateCallback, import_foreign_state
from diffusion_lab.training.memory_check import check_memory
from diffusion_lab.training.module import DiffusionModule
from diffusion_lab.training.optimizers import check_capturable
from diffusion_lab.training.resume import (
    RemainingTraining,
    learning_rate_note,
    make_resume_plan,
    remaining_training,
    resume_notes,
)
from diffusion_lab.training.resume_checks import Comparison, check_compatible, check_image_shape, compare
from diffusion_lab.training.resume_source import ResumeSource
from diffusion_lab.training.sample_evaluation import SampleEvaluation
from diffusion_lab.training.sigma_data import with_measured_sigma_data, with_saved_sigma_data
from diffusion_lab.training.sources import class_names_of, create_datamodule


@dataclass(frozen=True)
class PreparedRun:
    """All parts of a training run."""

    config: TrainConfig
    settings: dict[str, Any]
    device: torch.device
    flops: int | None
    threads: int
    data: ImageDataModule
    denoiser: Denoiser
    module: DiffusionModule
    callbacks: Sequence[Callback]
    evaluation: SampleEvaluation | None
    checkpoints: Checkpoints
    source: ResumeSource | None
    notes: Sequence[str]
    steps: range
    """Optimizer steps that remain, counted from 1 over the complete run."""
    last_epoch: int
    """Number of epochs of the complete run; the last one may be incomplete."""
    loggers: Sequence[Logger]
    """Custom loggers."""
    began: float
    """Start of the preparation, by the clock ``time.monotonic``."""

    @property
    def epochs(self) -> range:
        """Epochs that remain, counted from 1."""
        return range((self.source.epochs_done or 0 if self.source else 0) + 1, self.last_epoch + 1)

    @property
    def facts(self) -> dict[str, Any]:
        """What is known before the first step, by the names of ``summary.json`` where it has them, too."""
        metadata = self.module.metadata
        return {
            "device": str(self.device),
            "device_name": device_name(self.device),
            "precision": str(self.denoiser.compute_dtype).removeprefix("torch."),
            "threads": self.threads,
            "parameters": count_parameters(self.denoiser),
            "forward_flops": self.flops,
            "train_images": len(self.data.train),
            "validation_images": 0 if self.data.val is None else len(self.data.val),
            "epochs_planned": self.last_epoch,
            "steps_planned": self.steps.stop - 1,
            **{name: metadata[name] for name in ("config_hash", "data_fingerprint", "validation_fingerprint")},
            "evaluation": None if self.evaluation is None else self.evaluation.facts,
        }


def prepare_run(
    config: TrainConfig, folder: RunFolder, resumed: tuple[ResumeSource, Checkpoint] | None, console: Console
) -> PreparedRun:
    """Create the parts of a run. Everything that can be refused is refused here; nothing is written."""
    began = time.monotonic()
    source, checkpoint = resumed or (None, None)
    prediction_note = None
    if checkpoint is not None:
        prediction_note = checkpoint.prediction_note(config.model)
        config = config.model_copy(update={"model": checkpoint.with_prediction(config.model)})
    check_reachable(config.logger)
    device = resolve_device(config.compute.device)
    check_capturable(config.training.optimizer, device)
    check_memory(config)
    seed = _seed(config, source)
    seed_default_generators(derive_seed("weights", seed), device)
    if checkpoint is not None:
        check_image_shape(checkpoint, config)
    data = create_datamodule(config, seed, class_names_of(checkpoint))
    config = with_counted_classes(config, data.class_names)
    config = with_measured_sigma_data(with_saved_sigma_data(checkpoint, config), data.train)
    denoiser = create_denoiser(config.model, data.class_names)
    prepare_denoiser(denoiser, config.training.performance, device)
    comparison: Comparison | None = None
    left: RemainingTraining | None = None
    if source is not None and checkpoint is not None:
        comparison = compare(checkpoint, config, data)
        check_compatible(comparison, denoiser)
        if source.foreign:
            source = replace(source, step=(source.epochs_done or 0) * steps_per_epoch(config, data))
        left = remaining_training(source, config, data, comparison.changes)
    plain = config.model_dump(mode="json")
    settings = redacted(plain, secret_values(plain, sys.argv))
    settings["compute"]["seed"] = seed
    flops = count_forward_flops(denoiser.network, denoiser.image_shape, denoiser.num_classes)
    threads = threads_of_run(config, device, flops, checkpoint)
    length = run_length(config, data) if source is None or left is None else _length_of_resumed(source, left)
    resets_schedule = left is not None and config.training.resume.reset_scheduler
    span = ScheduleSpan(left.epochs, left.steps) if left is not None and resets_schedule else length
    module = create_module(config, denoiser, data, settings, span)
    module.metadata["threads"] = threads
    module.configure_optimizers()  # raises if a custom class does not accept the values
    warn_about_settings(config, module, data, length)
    custom = create_callbacks_of_settings(config.training.callbacks)
    resume_callback: Callback | None
    notes: list[str]
    if source is not None and checkpoint is not None and source.foreign:
        resume = config.training.resume
        state = import_foreign_state(
            checkpoint, module, source.step or 0, resume.reset_optimizer, resume.reset_scheduler
        )
        resume_callback, notes = ForeignStateCallback(state), state.notes
    else:
        resume_callback, notes = _create_resume_overrides(comparison, left, custom, console)
    notes = [*filter(None, [prediction_note]), *notes]
    callbacks, checkpoints = create_callbacks(config, denoiser, folder, seed, resume_callback, custom)
    evaluation = create_evaluation(config, data, seed, device)
    loggers = create_loggers_of_settings(config.logger.backends, folder.logs)
    create_profiler(config.training.profiler, folder.logs)  # raises if its class does not accept the values
    steps = range((source.step or 0 if source else 0) + 1, length.steps + 1)
    return PreparedRun(
        config,
        settings,
        device,
        flops,
        threads,
        data,
        denoiser,
        module,
        callbacks,
        evaluation,
        checkpoints,
        source,
        notes,
        steps,
        length.epochs,
        loggers,
        began,
    )


def _create_resume_overrides(
    comparison: Comparison | None, left: RemainingTraining | None, custom: Sequence[Callback], console: Console
) -> tuple[ResumeOverrides | None, list[str]]:
    """Create the callback that adapts the restored state, and the notes to print; nothing for a fresh start."""
    if comparison is None or left is None:
        return None, []
    plan = make_resume_plan(comparison, left)

    def report_rate(then: float, now: float) -> None:
        note = learning_rate_note(then, now, comparison, left)
        if note is not None:
            print_and_log(console, note)

    return ResumeOverrides(plan, custom, report_rate), resume_notes(comparison, plan, left)


def _length_of_resumed(source: ResumeSource, left: RemainingTraining) -> ScheduleSpan:
    """Return the length of the complete run, with what is done already."""
    return ScheduleSpan((source.epochs_done or 0) + left.epochs, (source.step or 0) + left.steps)


def _seed(config: TrainConfig, source: ResumeSource | None) -> int:
    """Return the seed of the settings, else that of the resumed run, else a new one."""
    if config.compute.seed is not None:
        return config.compute.seed
    if source is not None and source.seed is not None:
        return source.seed
    return secrets.randbits(32)


def threads_of_run(
    config: TrainConfig, device: torch.device, flops: int | None, checkpoint: Checkpoint | None = None
) -> int:
    """Return the threads of the settings, else those of the checkpoint, since sums round differently otherwise."""
    if config.compute.threads != "auto":
        return config.compute.threads
    if device.type != "cpu":
        return torch.get_num_threads()
    before = checkpoint.metadata.get("threads") if checkpoint else None
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
