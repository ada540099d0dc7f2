"""The objects of a training run from its settings: module, callbacks, trainer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from torch.optim import Optimizer

from diffusion_lab.checkpoint import FORMAT
from diffusion_lab.config.dotted import load_class
from diffusion_lab.config.evaluated_metrics import is_evaluated
from diffusion_lab.config.loss_section import LossSettings
from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.config.training_section import EmaSettings, PerformanceSettings, TrainingSettings
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.diffusion.loss import DenoisingLoss
from diffusion_lab.ema import EMA
from diffusion_lab.environment import environment
from diffusion_lab.guidance import Guidance
from diffusion_lab.identity import config_hash, data_fingerprint, validation_fingerprint
from diffusion_lab.networks import ImageNetwork
from diffusion_lab.networks.compiled import compile_in_place, forget_compiled
from diffusion_lab.precision import resolve_precision
from diffusion_lab.run_folder import RunFolder
from diffusion_lab.training.callbacks import Averaging, Checkpoints, Pictures, Randomness
from diffusion_lab.training.callbacks.randomness import randomness_kept
from diffusion_lab.training.checkpoint_io import BackgroundCheckpointIO
from diffusion_lab.training.lr_schedules import create_schedule
from diffusion_lab.training.module import DiffusionModule
from diffusion_lab.training.one_process import OneProcess
from diffusion_lab.training.optimizers import create_optimizer
from diffusion_lab.training.sample_evaluation import SampleEvaluation
from diffusion_lab.training.watched_metric import WatchedMetric

ModuleT = TypeVar("ModuleT", bound=DiffusionModule)


def create_module(
    config: TrainConfig,
    denoiser: Denoiser,
    data: ImageDataModule,
    settings: dict[str, Any],
    span: ScheduleSpan | None = None,
) -> DiffusionModule:
    """The module, and in it what a checkpoint says of itself.

    Args:
        config: The settings.
        denoiser: What is trained.
        data: The images.
        settings: The configuration as plain containers.
        span: What the learning-rate schedule is for; the whole run where None.
    """
    span_of_run = span or ScheduleSpan(config.training.epochs, optimizer_steps(config, data))
    images = data_fingerprint(data.train)
    return assemble(
        config.training,
        denoiser,
        config.model.conditioning.class_dropout_prob,
        lambda: span_of_run,
        about={
            "format": FORMAT,
            "config": settings,
            "class_names": list(data.class_names),
            "seed": settings["compute"]["seed"],
            "config_hash": config_hash(_seeded(config, settings["compute"]["seed"])),
            "data_fingerprint": images,
            "validation_fingerprint": validation_fingerprint(data.train, data.val, images),
            "environment": environment(),
        },
        cls=DiffusionModule,
    )


def assemble(
    training: TrainingSettings,
    denoiser: Denoiser,
    label_dropout: float,
    span: Callable[[], ScheduleSpan],
    about: dict[str, Any],
    cls: type[ModuleT],
) -> ModuleT:
    """Join a denoiser with the loss, optimizer, learning-rate schedule and average of the ``training`` section.

    Args:
        training: The section.
        denoiser: What is trained.
        label_dropout: Share of the labels that training hides.
        span: What the learning-rate schedule is for; asked when the optimizer is made.
        about: What a checkpoint says of itself.
        cls: The class of the module.
    """
    ema = _ema(denoiser, training.ema) if training.ema.enabled else None
    if training.performance.compile_model:
        forget_compiled()  # by an earlier run of this process: only so many programs are kept
        for compiled in (denoiser, *([ema.average] if ema else [])):  # the average is validated and pictured
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
        about=about,
        watched=training.validation.logged_metric,
    )


def _ema(denoiser: Denoiser, settings: EmaSettings) -> EMA[Denoiser]:
    return EMA(denoiser, settings.decay, warmup=settings.warmup, further_decays=settings.further_decays)


class ScheduleSpan(NamedTuple):
    """The epochs and optimizer steps that a learning-rate schedule is for, from its own beginning."""

    epochs: int
    steps: int


def _seeded(config: TrainConfig, seed: int) -> TrainConfig:
    """The settings with the seed that was drawn where they leave it open."""
    return config.model_copy(update={"compute": config.compute.model_copy(update={"seed": seed})})


def prepare(denoiser: Denoiser, performance: PerformanceSettings, device: torch.device) -> None:
    """Set what a denoiser computes in on a device, and which activations it keeps; its averages do as it does.

    Raises:
        ValueError: The device cannot, or a network of the user's own cannot compute activations again.
    """
    denoiser.compute_dtype = _computes_in(performance, device)
    if performance.gradient_checkpointing:
        if not isinstance(denoiser.network, ImageNetwork):
            raise ValueError(
                "training.performance.gradient_checkpointing needs a network derived from "
                f"diffusion_lab.networks.ImageNetwork, got {type(denoiser.network).__name__}"
            )
        denoiser.network.recompute_activations()


def create_loss(loss: LossSettings, label_dropout: float) -> DenoisingLoss:
    """The denoising loss."""
    return DenoisingLoss(
        penalty=loss.penalty.build(),
        weighting=loss.weighting.build(),
        times=loss.times.build(),
        stratified=loss.stratified,
        label_dropout=label_dropout,
    )


def optimizer_steps(config: TrainConfig, data: ImageDataModule) -> int:
    """Optimizer steps of the whole run."""
    # The trainer makes a step at the end of each epoch, also from fewer batches than the others.
    return -(-data.steps_per_epoch // config.training.accumulate_batches) * config.training.epochs


def create_callbacks(
    config: TrainConfig, denoiser: Denoiser, folder: RunFolder, seed: int, resumption: Callback | None = None
) -> tuple[list[Callback], Checkpoints]:
    """The callbacks that the settings ask for; the one that saves by itself, since it knows what is best.

    Raises:
        ValueError: The sampler of the pictures cannot walk the noise process, or one of ``training.callbacks`` is no
            callback.
    """
    training = config.training
    kept, shown = training.checkpointing, training.visualization
    callbacks: list[Callback] = [Randomness(), *([Averaging()] if training.ema.enabled else [])]
    if resumption is not None:
        callbacks.append(resumption)
    if shown.enabled:
        sampler = config.sampler.for_process(denoiser.schedule.most_steps).build()
        guidance = Guidance(**dict(config.guidance))
        sampler.levels(denoiser.schedule)  # now, not when the first picture is due
        callbacks.append(
            Pictures(folder.samples, sampler, shown.interval, shown.num_samples, shown.guidance_scale, seed, guidance)
        )
    callbacks += [_own_callback(path, f"training.callbacks[{index}]") for index, path in enumerate(training.callbacks)]
    checkpoints = Checkpoints(
        folder.checkpoints,
        kept.save_frequency,
        kept.save_best_only,
        kept.save_optimizer,
        WatchedMetric(training.validation.logged_metric, training.validation.direction),
        kept.keep_last,
        folder.run_id,
    )
    return callbacks, checkpoints


def create_evaluation(
    config: TrainConfig, data: ImageDataModule, seed: int, device: torch.device
) -> SampleEvaluation | None:
    """What compares samples with images of the run while training, prepared; None where it is off.

    The generators of random numbers are left as they were.

    Raises:
        ValueError: The images or the features do not do for a metric, or the watched metric is none of them.
    """
    if not config.evaluation.enabled:
        return None
    is_conditional = config.model.conditioning.type is not None
    guidance = Guidance(**dict(config.guidance))
    with randomness_kept():
        evaluation = SampleEvaluation(config.evaluation, data.train, data.val, is_conditional, seed, guidance, device)
        watched = config.training.validation.metric
        if is_evaluated(watched) and watched not in evaluation.names and not config.training.callbacks:
            raise ValueError(
                f"training.validation.metric must be one of the evaluation, {', '.join(evaluation.names)} (of "
                f"evaluation.features {config.evaluation.features}), got {watched}"
            )
        evaluation.prepare()
    return evaluation


def _own_callback(path: str, key: str) -> Callback:
    cls = load_class(path, key)
    if not issubclass(cls, Callback):
        raise ValueError(f"{key} must be a class derived from lightning.pytorch.Callback, got {path}")
    try:
        return cls()
    except TypeError as error:
        raise ValueError(f"{key} must be a class without required arguments, got {path}: {error}") from error


def create_trainer(
    config: TrainConfig,
    device: torch.device,
    callbacks: list[Callback],
    loggers: list[Logger],
    folder: RunFolder,
) -> Trainer:
    """Lightning's trainer."""
    training = config.training
    performance = training.performance
    torch.backends.cuda.matmul.allow_tf32 = performance.use_tf32
    torch.backends.cudnn.allow_tf32 = performance.use_tf32
    return Trainer(
        accelerator="gpu" if device.type == "cuda" else device.type,
        # One device: several would start the whole command again for each further one, sweep and all.
        devices=1 if device.index is None else [device.index],
        # The denoiser itself computes in less than 32 bits; the gradients of float16 need a scaler, too.
        precision="16-mixed" if _computes_in(performance, device) == torch.float16 else "32-true",
        max_epochs=training.epochs,
        accumulate_grad_batches=training.accumulate_batches,
        gradient_clip_val=training.optimizer.gradient_clip_norm,
        benchmark=performance.cudnn_benchmark and not config.compute.deterministic,
        check_val_every_n_epoch=training.validation.frequency,
        limit_val_batches=None if training.validation.enabled else 0,
        log_every_n_steps=training.log_interval,
        num_sanity_val_steps=0,
        logger=loggers,
        callbacks=callbacks,
        plugins=[BackgroundCheckpointIO(), OneProcess()],
        default_root_dir=folder.base,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _computes_in(performance: PerformanceSettings, device: torch.device) -> torch.dtype:
    return resolve_precision(performance.wanted_precision, device, "training.performance.precision")
