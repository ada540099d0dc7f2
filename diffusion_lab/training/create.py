"""Objects of a training run, created from its settings: module, callbacks, evaluation, trainer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import Profiler
from torch.optim import Optimizer

from diffusion_lab.checkpoint import FORMAT
from diffusion_lab.config.loss_section import LossSettings
from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.config.training_section import EmaSettings, PerformanceSettings, TrainingSettings
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.diffusion.loss import DenoisingLoss
from diffusion_lab.ema import EMA
from diffusion_lab.guidance import Guidance
from diffusion_lab.metric_names import is_evaluated
from diffusion_lab.networks import ImageNetwork
from diffusion_lab.networks.compiled import compile_in_place, reset_compiler
from diffusion_lab.runs.folder import RunFolder
from diffusion_lab.runs.identity import config_hash, data_fingerprint, validation_fingerprint
from diffusion_lab.runtime.environment import environment
from diffusion_lab.runtime.precision import resolve_precision
from diffusion_lab.training.callbacks import Checkpoints, EMACallback, RNGState, SampleImages
from diffusion_lab.training.callbacks.rng_state import preserve_rng_state
from diffusion_lab.training.checkpoint_io import BackgroundCheckpointIO
from diffusion_lab.training.custom_objects import create_object
from diffusion_lab.training.lr_schedules import create_schedule
from diffusion_lab.training.module import DiffusionModule
from diffusion_lab.training.optimizers import create_optimizer
from diffusion_lab.training.sample_evaluation import SampleEvaluation
from diffusion_lab.training.single_process import SingleProcessEnvironment
from diffusion_lab.training.watched_metric import WatchedMetric

ModuleT = TypeVar("ModuleT", bound=DiffusionModule)


def create_module(
    config: TrainConfig,
    denoiser: Denoiser,
    data: ImageDataModule,
    settings: dict[str, Any],
    span: ScheduleSpan | None = None,
) -> DiffusionModule:
    """Create the module, with the metadata that its checkpoints carry.

    Args:
        config: The settings.
        denoiser: The denoiser to train.
        data: The images.
        settings: The configuration as plain containers.
        span: Length of the learning-rate schedule; the complete run if None.
    """
    span_of_run = span or run_length(config, data)
    images = data_fingerprint(data.train)
    return build_module(
        config.training,
        denoiser,
        config.model.conditioning.class_dropout_prob,
        lambda: span_of_run,
        metadata={
            "format": FORMAT,
            "config": settings,
            "class_names": list(data.class_names),
            "seed": settings["compute"]["seed"],
            "config_hash": config_hash(_with_seed(config, settings["compute"]["seed"])),
            "data_fingerprint": images,
            "validation_fingerprint": validation_fingerprint(data.train, data.val, images),
            "environment": environment(),
        },
        cls=DiffusionModule,
    )


def build_module(
    training: TrainingSettings,
    denoiser: Denoiser,
    label_dropout: float,
    span: Callable[[], ScheduleSpan],
    metadata: dict[str, Any],
    cls: type[ModuleT],
) -> ModuleT:
    """Build a module from a denoiser and the loss, optimizer, learning-rate schedule and EMA of ``training``.

    Args:
        training: The ``training`` section.
        denoiser: The denoiser to train.
        label_dropout: Fraction of labels that training drops, for classifier-free guidance.
        span: Returns the length of the learning-rate schedule; called when the optimizer is created.
        metadata: Metadata of checkpoints.
        cls: Class of the module.
    """
    ema = _ema(denoiser, training.ema) if training.ema.enabled else None
    if training.performance.compile_model:
        reset_compiler()  # its cache is limited, and an earlier run of this process may have filled it
        for compiled in (denoiser, *([ema.average] if ema else [])):  # validation and sample images use the EMA
            compile_in_place(compiled.network)

    def make_schedule(optimizer: Optimizer) -> dict[str, Any] | None:
        epochs, steps = span()
        options, metric = training.scheduler_options(epochs), training.validation.logged_metric
        return create_schedule(training.scheduler.type, options, optimizer, total_steps=steps, metric=metric)

    return cls(
        denoiser,
        create_loss(training.loss, label_dropout),
        make_optimizer=partial(create_optimizer, training.optimizer, scaled=denoiser.compute_dtype == torch.float16),
        make_schedule=make_schedule,
        ema=ema,
        log_interval=training.log_interval,
        metadata=metadata,
        monitor=training.validation.logged_metric,
    )


def _ema(denoiser: Denoiser, settings: EmaSettings) -> EMA[Denoiser]:
    return EMA(denoiser, settings.decay, warmup=settings.warmup, further_decays=settings.further_decays)


class ScheduleSpan(NamedTuple):
    """Length of a learning-rate schedule in epochs and optimizer steps, counted from its start."""

    epochs: int
    steps: int


def _with_seed(config: TrainConfig, seed: int) -> TrainConfig:
    """Return the settings with the seed of the run, which is drawn if they have none."""
    return config.model_copy(update={"compute": config.compute.model_copy(update={"seed": seed})})


def prepare_denoiser(denoiser: Denoiser, performance: PerformanceSettings, device: torch.device) -> None:
    """Set the compute dtype of a denoiser for a device, and whether its activations are checkpointed.

    Averages of the denoiser are copies, which have the same options.

    Raises:
        ValueError: The device does not support the precision, or a custom network does not support gradient
            checkpointing.
    """
    denoiser.compute_dtype = _compute_dtype(performance, device)
    if performance.gradient_checkpointing:
        if not isinstance(denoiser.network, ImageNetwork):
            raise ValueError(
                "training.performance.gradient_checkpointing needs a network derived from "
                f"diffusion_lab.networks.ImageNetwork, got {type(denoiser.network).__name__}"
            )
        denoiser.network.recompute_activations()


def create_loss(loss: LossSettings, label_dropout: float) -> DenoisingLoss:
    """Create the denoising loss."""
    return DenoisingLoss(
        penalty=loss.penalty.build(),
        weighting=loss.weighting.build(),
        times=loss.times.build(),
        stratified=loss.stratified,
        label_dropout=label_dropout,
    )


def run_length(config: TrainConfig, data: ImageDataModule) -> ScheduleSpan:
    """Return the length of the complete run: ``training.epochs``, or fewer with ``training.max_steps``."""
    per_epoch = steps_per_epoch(config, data)
    steps = min(per_epoch * config.training.epochs, config.training.max_steps or math.inf)
    return ScheduleSpan(math.ceil(steps / per_epoch), int(steps))


def steps_per_epoch(config: TrainConfig, data: ImageDataModule) -> int:
    """Return the number of optimizer steps of an epoch."""
    # The trainer makes a step at the end of each epoch, even if fewer batches than usual are left for it.
    return -(-data.steps_per_epoch // config.training.accumulate_batches)


def create_callbacks(
    config: TrainConfig,
    denoiser: Denoiser,
    folder: RunFolder,
    seed: int,
    resume_callback: Callback | None = None,
    custom: Sequence[Callback] = (),
) -> tuple[list[Callback], Checkpoints]:
    """Create the callbacks of the settings; the one that saves checkpoints is returned apart.

    Args:
        config: The settings.
        denoiser: The denoiser to train.
        folder: The folder of the run.
        seed: Seed of the sample images.
        resume_callback: The callback that adapts the restored state; None for a fresh start.
        custom: The callbacks of ``training.callbacks``.

    Raises:
        ValueError: The sampler of the sample images does not support the noise process.
    """
    training = config.training
    checkpointing, visualization = training.checkpointing, training.visualization
    callbacks: list[Callback] = [RNGState(), *([EMACallback()] if training.ema.enabled else [])]
    if resume_callback is not None:
        callbacks.append(resume_callback)
    if visualization.enabled:
        sampler = config.sampler.for_process(denoiser.schedule.most_steps).build()
        guidance = Guidance(**dict(config.guidance))
        sampler.levels(denoiser.schedule)  # raises now rather than when the first images are due
        callbacks.append(
            SampleImages(
                folder.samples,
                sampler,
                visualization.interval,
                visualization.num_samples,
                visualization.guidance_scale,
                seed,
                guidance,
            )
        )
    callbacks += custom
    checkpoints = Checkpoints(
        folder.checkpoints,
        checkpointing.save_frequency,
        checkpointing.save_best_only,
        checkpointing.save_optimizer,
        WatchedMetric(training.validation.logged_metric, training.validation.direction),
        checkpointing.keep_last,
        folder.run_id,
    )
    return callbacks, checkpoints


def create_evaluation(
    config: TrainConfig, data: ImageDataModule, seed: int, device: torch.device
) -> SampleEvaluation | None:
    """Create and prepare the evaluation of samples during training, which compares them with the run's images.

    It is None if disabled. The states of the random generators are preserved.

    Raises:
        ValueError: The images or the features do not suit a metric, or the watched metric is not evaluated.
    """
    if not config.evaluation.enabled:
        return None
    is_conditional = config.model.conditioning.type is not None
    guidance = Guidance(**dict(config.guidance))
    with preserve_rng_state():
        evaluation = SampleEvaluation(config.evaluation, data.train, data.val, is_conditional, seed, guidance, device)
        watched = config.training.validation.metric
        if is_evaluated(watched) and watched not in evaluation.names and not config.training.callbacks:
            raise ValueError(
                f"training.validation.metric must be one of the evaluation, {', '.join(evaluation.names)} (of "
                f"evaluation.features {config.evaluation.features}), got {watched}"
            )
        evaluation.prepare()
    return evaluation


def create_profiler(entry: str | Mapping[str, Any] | None, folder: Path) -> Profiler | None:
    """Create the profiler of ``training.profiler``, which writes its results to ``folder``.

    Raises:
        ValueError: It cannot be created.
    """
    if entry is None:
        return None
    target = PROFILERS.get(entry, entry) if isinstance(entry, str) else entry
    profiler: Profiler = create_object(target, "training.profiler", dirpath=folder, filename="profile")
    return profiler


PROFILERS = {
    name: f"lightning.pytorch.profilers.{cls}"
    for name, cls in (("simple", "SimpleProfiler"), ("advanced", "AdvancedProfiler"), ("pytorch", "PyTorchProfiler"))
}
"""Lightning's profilers by name, as for its Trainer."""


def create_trainer(
    config: TrainConfig,
    device: torch.device,
    callbacks: list[Callback],
    loggers: list[Logger],
    folder: RunFolder,
    epochs: int | None = None,
    checkpoint_io: CheckpointIO | None = None,
) -> Trainer:
    """Create Lightning's trainer.

    Args:
        config: The settings.
        device: The device.
        callbacks: All callbacks. Without one that saves checkpoints, none are saved.
        loggers: All loggers.
        folder: The folder of the run.
        epochs: Number of epochs; that of the settings if None.
        checkpoint_io: Writes checkpoints; None to write them in the background.
    """
    training = config.training
    performance = training.performance
    torch.backends.cuda.matmul.allow_tf32 = performance.use_tf32
    torch.backends.cudnn.allow_tf32 = performance.use_tf32
    return Trainer(
        accelerator="gpu" if device.type == "cuda" else device.type,
        # One device: with several, Lightning would start the complete command, sweep included, once per device.
        devices=1 if device.index is None else [device.index],
        # The denoiser casts to lower precision itself; float16 gradients also need a scaler.
        precision="16-mixed" if _compute_dtype(performance, device) == torch.float16 else "32-true",
        max_epochs=epochs or training.epochs,
        profiler=create_profiler(training.profiler, folder.logs),
        accumulate_grad_batches=training.accumulate_batches,
        gradient_clip_val=training.optimizer.gradient_clip_norm,
        benchmark=performance.cudnn_benchmark and not config.compute.deterministic,
        check_val_every_n_epoch=training.validation.frequency,
        limit_val_batches=None if training.validation.enabled else 0,
        log_every_n_steps=training.log_interval,
        num_sanity_val_steps=0,
        logger=loggers,
        callbacks=callbacks,
        plugins=[checkpoint_io or BackgroundCheckpointIO(), SingleProcessEnvironment()],
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),  # not Lightning's own
        default_root_dir=folder.base,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _compute_dtype(performance: PerformanceSettings, device: torch.device) -> torch.dtype:
    return resolve_precision(performance.requested_precision, device, "training.performance.precision")
