"""The parts of a training run, made from its settings before anything is written."""

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
from diffusion_lab.config.faults import ConfigWarning
from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.create import create_denoiser
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.determinism import seed_default_generators
from diffusion_lab.devices import resolve_device
from diffusion_lab.networks.cost import count_forward_flops
from diffusion_lab.redaction import redacted, secret_values
from diffusion_lab.run_folder import RunFolder
from diffusion_lab.run_images.classes import with_counted_classes
from diffusion_lab.seeds import derive_seed
from diffusion_lab.threads import choose_threads, free_cores
from diffusion_lab.training.build import (
    ScheduleSpan,
    create_callbacks,
    create_evaluation,
    create_module,
    optimizer_steps,
    prepare,
)
from diffusion_lab.training.callbacks import Checkpoints, Resumption
from diffusion_lab.training.module import DiffusionModule
from diffusion_lab.training.optimizers import refuse_capturable_without_gpu
from diffusion_lab.training.origin import Origin
from diffusion_lab.training.resume import Remainder, notes_of, plan_of, rate_note, remainder
from diffusion_lab.training.resume_checks import Comparison, compare, refuse_mismatch, refuse_other_form
from diffusion_lab.training.sample_evaluation import SampleEvaluation
from diffusion_lab.training.sigma_data import with_measured_sigma_data, with_sigma_data_of
from diffusion_lab.training.sizes import refuse_outsized_run
from diffusion_lab.training.sources import class_names_of, create_datamodule
from diffusion_lab.training.takeover import TakingOver, take_over
from diffusion_lab.training.wandb_mirror import refuse_unreachable
from diffusion_lab.training.words import say_and_log, warn_of_doubts


@dataclass(frozen=True)
class PreparedRun:
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
    evaluation: SampleEvaluation | None
    checkpoints: Checkpoints
    origin: Origin | None
    notes: Sequence[str]
    steps: range
    """Optimizer steps that are left to do, counted from 1 over the whole run."""
    began: float
    """When its preparation began, on the clock ``time.monotonic``."""

    @property
    def epochs(self) -> range:
        """Epochs that are left to do, counted from 1."""
        return range((self.origin.epochs_done or 0 if self.origin else 0) + 1, self.config.training.epochs + 1)


def prepare_run(
    config: TrainConfig, folder: RunFolder, found: tuple[Origin, Checkpoint] | None, console: Console
) -> PreparedRun:
    """Make the parts of a run. What can be refused is refused here; nothing is written."""
    began = time.monotonic()
    origin, checkpoint = found or (None, None)
    prediction_note = None
    if checkpoint is not None:
        prediction_note = checkpoint.prediction_note(config.model)
        config = config.model_copy(update={"model": checkpoint.with_prediction(config.model)})
    refuse_unreachable(config.logger)
    device = resolve_device(config.compute.device)
    refuse_capturable_without_gpu(config.training.optimizer, device)
    refuse_outsized_run(config)
    seed = _seed(config, origin)
    seed_default_generators(derive_seed("weights", seed), device)
    if checkpoint is not None:
        refuse_other_form(checkpoint, config)
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
        if origin.foreign:
            steps_per_epoch = optimizer_steps(config, data) // config.training.epochs
            origin = replace(origin, step=(origin.epochs_done or 0) * steps_per_epoch)
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
    resumption: Callback | None
    notes: list[str]
    if origin is not None and checkpoint is not None and origin.foreign:
        resume = config.training.resume
        taken = take_over(checkpoint, module, origin.step or 0, resume.reset_optimizer, resume.reset_scheduler)
        resumption, notes = TakingOver(taken), taken.notes
    else:
        resumption, notes = _resumption(compared, left, console)
    notes = [*filter(None, [prediction_note]), *notes]
    callbacks, checkpoints = create_callbacks(config, denoiser, folder, seed, resumption)
    evaluation = create_evaluation(config, data, seed, device)
    done = origin.step or 0 if origin else 0
    steps = range(done + 1, done + (left.steps if left else optimizer_steps(config, data)) + 1)
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
        origin,
        notes,
        steps,
        began,
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
