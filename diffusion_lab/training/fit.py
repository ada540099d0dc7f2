"""A training run from its settings: check everything, train, sum up."""

from __future__ import annotations

import contextlib
import json
import logging
import resource
import secrets
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console

from diffusion_lab.checkpoint import find_checkpoint, read_checkpoint
from diffusion_lab.config.faults import ConfigWarning
from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.create import create_denoiser
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.data.workers import naming_lost_workers
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.devices import resolve_device
from diffusion_lab.networks.cost import count_parameters, forward_flops
from diffusion_lab.run_folder import RunFolder
from diffusion_lab.seeds import derive_seed
from diffusion_lab.training.build import (
    create_callbacks,
    create_module,
    create_trainer,
    logged_metric,
    optimizer_steps,
)
from diffusion_lab.training.callbacks import TrainingProgress
from diffusion_lab.training.doubts import doubts_about_batches, doubts_about_ema
from diffusion_lab.training.loggers import open_loggers
from diffusion_lab.training.module import DiffusionModule
from diffusion_lab.training.resume import refuse_mismatch
from diffusion_lab.training.sigma_data import with_measured_sigma_data
from diffusion_lab.training.sources import create_datamodule


@dataclass(frozen=True)
class TrainingSummary:
    """What a finished run has to say; it is ``summary.json`` in the run folder.

    ``forward_flops`` are the operations of the network for one image, None where they cannot be counted.
    """

    run_folder: str
    epochs: int
    steps: int
    parameters: int
    forward_flops: int | None
    train_images: int
    metric: str
    best_value: float | None
    best_epoch: int | None
    best_checkpoint: str | None
    last_checkpoint: str
    train_seconds: float
    images_per_second: float
    peak_memory_mb: float


def train(config: TrainConfig, console: Console | None = None) -> TrainingSummary:
    """Train a model.

    Everything that can be wrong with the settings, the images or the checkpoint to resume from is found before the
    run folder is made.

    Args:
        config: The checked settings.
        console: Where to show progress; standard error where None.

    Raises:
        ValueError, FileNotFoundError, PermissionError: Naming the key, the value and the rule.
    """
    device = resolve_device(config.compute.device)
    folder = RunFolder.of(config.output)
    resumed = _Resumed.find(config)
    continued = resumed is not None and folder.holds(resumed.path)
    folder.check_free(config.output.overwrite or continued)
    seed = _seed(config, resumed)
    torch.manual_seed(derive_seed("weights", seed))
    data = create_datamodule(config, seed)
    config = with_measured_sigma_data(config, data.train)
    denoiser = create_denoiser(config.model, data.class_names)
    if resumed is not None:
        refuse_mismatch(read_checkpoint(resumed.path), config, denoiser)
    settings = config.model_dump(mode="json")
    settings["compute"]["seed"] = seed
    module = create_module(config, denoiser, data, settings)
    module.configure_optimizers()  # refuses values that the user's own class does not take
    _warn(module, data, optimizer_steps(config, data))
    callbacks, checkpoints = create_callbacks(config, denoiser, folder, seed, resumed is not None)
    progress = TrainingProgress(console or Console(stderr=True))
    folder.create(settings, keep=continued)
    resumed_at = resumed.step if resumed is not None and continued else None
    with (
        folder.running(),
        open_loggers(config.logger, folder.logs, config.experiment, folder.base.name, settings, resumed_at) as loggers,
        _quiet(),
    ):
        trainer = create_trainer(config, device, [*callbacks, progress, checkpoints], loggers, folder)
        flops = _forward_flops(denoiser)
        _announce(config, denoiser, flops, data, device, folder, progress.console)
        started = time.monotonic()
        with _interruptible(), naming_lost_workers():
            trainer.fit(module, datamodule=data, ckpt_path=None if resumed is None else resumed.path, weights_only=True)
        summary = TrainingSummary(
            run_folder=str(folder.base),
            epochs=trainer.current_epoch,
            steps=trainer.global_step,
            parameters=count_parameters(denoiser),
            forward_flops=flops,
            train_images=len(data.train),
            metric=logged_metric(config),
            best_value=checkpoints.best,
            best_epoch=checkpoints.best_epoch,
            best_checkpoint=str(checkpoints.best_path) if checkpoints.best is not None else None,
            last_checkpoint=str(checkpoints.last_path),
            train_seconds=round(time.monotonic() - started, 2),
            images_per_second=round(progress.images_per_second, 1),
            peak_memory_mb=round(_peak_memory_mb(device), 1),
        )
        (folder.base / "summary.json").write_text(json.dumps(asdict(summary), indent=2) + "\n")
    _show(summary, progress.console)
    return summary


def _warn(module: DiffusionModule, data: ImageDataModule, steps: int) -> None:
    about_ema = () if module.ema is None else doubts_about_ema(module.ema, steps)
    for doubt in (*doubts_about_batches(data), *about_ema):
        warnings.warn(doubt, ConfigWarning, stacklevel=3)


@dataclass(frozen=True)
class _Resumed:
    """The checkpoint to go on from: its weights are read by whoever needs them, and not kept."""

    path: Path
    step: int | None
    seed: int | None

    @classmethod
    def find(cls, config: TrainConfig) -> _Resumed | None:
        resume = config.training.resume
        if not resume.enabled or resume.checkpoint is None:
            return None
        path = find_checkpoint(resume.checkpoint, prefer="last")
        checkpoint = read_checkpoint(path)
        settings = checkpoint.config or {}
        return cls(path, checkpoint.step, settings.get("compute", {}).get("seed"))


def _seed(config: TrainConfig, resumed: _Resumed | None) -> int:
    """The seed of the settings, else that of the run that goes on, else a new one."""
    if config.compute.seed is not None:
        return config.compute.seed
    if resumed is not None and resumed.seed is not None:
        return resumed.seed
    return secrets.randbits(32)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C be one: Lightning makes it a SystemExit and has the rest of the process ignore the next one."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if not isinstance(error.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's advertisements, and its warnings about what is so on purpose, from the user."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for message in (
            ".*does not have many workers.*",  # images held in memory need none
            ".*smaller than the logging interval.*",  # small data; the epoch's own line is there all the same
            ".*in eval mode at the start of training.*",  # the average is
            ".*treespec, LeafSpec.*",  # Lightning's own use of torch
        ):
            warnings.filterwarnings("ignore", message=message)
        try:
            yield
        finally:
            logger.setLevel(level)


def _forward_flops(denoiser: Denoiser) -> int | None:
    try:
        return forward_flops(denoiser.network, denoiser.image_shape, denoiser.num_classes)
    except Exception:  # a network of one's own may do anything with a tensor; no run shall end for a count
        return None


def _peak_memory_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def _announce(
    config: TrainConfig,
    denoiser: Denoiser,
    flops: int | None,
    data: ImageDataModule,
    device: torch.device,
    folder: RunFolder,
    console: Console,
) -> None:
    work = "" if flops is None else f", {flops / 1e9:.3g} GFLOP an image forward"
    _say(
        console,
        f"{config.experiment}: {len(data.train)} images, {count_parameters(denoiser) / 1e6:.2f} M parameters{work}, "
        f"{config.training.epochs} epochs of {data.steps_per_epoch} batches on {device.type}\nrun folder {folder.base}",
    )


def _show(summary: TrainingSummary, console: Console) -> None:
    if summary.best_value is not None:
        _say(console, f"best {summary.metric} {summary.best_value:.4f} in epoch {summary.best_epoch}")
        _say(console, f"best checkpoint {summary.best_checkpoint}")
    _say(
        console,
        f"last checkpoint {summary.last_checkpoint}\n"
        f"{summary.steps} steps in {summary.train_seconds:.0f} s, {summary.images_per_second:.0f} images/s, "
        f"peak memory {summary.peak_memory_mb:.0f} MB\n"
        f"sample from it: python sample.py ckpt={summary.run_folder}",
    )


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
