"""Lines that a training run prints on the console before and after training."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.config.training_section import ResumeSettings
from diffusion_lab.console.command_line import command, setting
from diffusion_lab.console.terminal import folded, printable
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.faults import ConfigWarning
from diffusion_lab.files.run_files import CONFIG
from diffusion_lab.networks.cost import count_parameters
from diffusion_lab.runs.folder import RunFolder, RunStopped
from diffusion_lab.runs.log import RUN_LOG
from diffusion_lab.runs.startup_lines import aligned, describe_compute, describe_images, describe_process, pluralize
from diffusion_lab.sampling.terminal_noise import terminal_noise_warnings
from diffusion_lab.sweeps.job_record import RECORD
from diffusion_lab.training.create import ScheduleSpan
from diffusion_lab.training.module import DiffusionModule
from diffusion_lab.training.resume_source import ResumeSource
from diffusion_lab.training.summary import TrainingSummary
from diffusion_lab.training.suspicious_settings import (
    accumulation_warnings,
    batch_warnings,
    ema_warnings,
    max_steps_warnings,
    weighting_warnings,
)
from diffusion_lab.training.watched_metric import format_metric

if TYPE_CHECKING:
    from diffusion_lab.training.prepare import PreparedRun
    from diffusion_lab.training.sample_evaluation import SampleEvaluation


def print_line(console: Console, text: str) -> None:
    """Print plain text without wrapping its lines."""
    console.print(printable(text), highlight=False, markup=False, soft_wrap=True)


def print_prose(console: Console, text: str) -> None:
    """Print plain text; on a terminal, lines that are too wide are broken between words."""
    text = printable(text)
    print_line(console, folded(text, console.width - 1) if console.is_terminal else text)


def print_and_log(console: Console, text: str) -> None:
    """Print plain text and write it to the run's ``run.log``."""
    print_prose(console, text)
    logging.getLogger(RUN_LOG).warning(text)


def log_lines(lines: Iterable[str]) -> None:
    """Write to ``run.log`` the lines that were printed before the run had this file."""
    for line in lines:
        logging.getLogger(RUN_LOG).warning("%s", line)


def print_run(console: Console, run: PreparedRun, folder: RunFolder) -> None:
    """Print what is about to be trained."""
    rows = {**describe_run(run), "run folder": str(folder.base)}
    print_prose(console, f"{run.config.experiment}\n{aligned(rows)}")


def describe_run(run: PreparedRun) -> dict[str, str]:
    """Describe images, model, length and device of a run, by the names of the lines."""
    config, denoiser, data = run.config, run.denoiser, run.data
    work = "" if run.flops is None else f", {run.flops / 1e9:.3g} GFLOP per image (forward)"
    loading, accumulated = config.data.loading, config.training.accumulate_batches
    steps = "" if accumulated == 1 else f", {accumulated} batches an optimizer step"
    batches = pluralize(data.steps_per_epoch, "batch", "batches")
    seed: int = run.settings["compute"]["seed"]
    return {
        "images": describe_images(len(data.train), denoiser.image_shape, denoiser.num_classes),
        "validation": describe_validation(config, data),
        "model": f"{count_parameters(denoiser) / 1e6:.2f} M parameters{work}",
        "diffusion": describe_process(config.model.diffusion, denoiser.schedule.most_steps),
        "training": f"{_describe_length(run)} of {batches} of {loading.batch_size}{steps}",
        **(
            {}
            if run.evaluation is None
            else {"evaluation": describe_evaluation(config, run.evaluation, run.last_epoch)}
        ),
        "compute": describe_compute(
            run.device, run.threads, denoiser.compute_dtype, seed, drawn=config.compute.seed is None
        ),
    }


def describe_validation(config: TrainConfig, data: ImageDataModule) -> str:
    """Describe the validation images; for a split by default, also how to turn it off."""
    if data.val is None:
        return "none: training.validation.enabled=false"
    if not data.val_is_split_off:
        return f"{len(data.val):,} images of {config.data.paths.val}"
    fraction = config.data.validation_split.fraction
    share = "a tenth" if fraction == 0.1 else f"{fraction:.4g}"
    by_class = " of each class" if len(set(data.train.labels.tolist())) > 1 else ""
    folder = "; others: data.paths.val=DIR" if config.data.type == "image_folder" else ""
    return (
        f"{len(data.val):,} images, {share}{by_class}, split off and not trained on\n"
        f"off: training.validation.enabled=false{folder}"
    )


def _describe_length(run: PreparedRun) -> str:
    """Describe the length of the complete run and the limits that apply to it."""
    training = run.config.training
    epochs = pluralize(run.last_epoch, "epoch")
    if training.max_steps is not None and run.steps.stop - 1 == training.max_steps:
        epochs = f"{pluralize(training.max_steps, 'step')} (training.max_steps) in {epochs}"
    return epochs if training.max_time is None else f"at most {training.max_time} (training.max_time), {epochs}"


def describe_evaluation(config: TrainConfig, evaluation: SampleEvaluation, epochs: int) -> str:
    """Describe the evaluation during training and how often it runs."""
    every = config.evaluation.interval(epochs)
    when = "after every epoch" if every == 1 else f"after every {every} epochs and the last one"
    return f"{when}:\n{evaluation.description}"


def print_resume_source(console: Console, config: TrainConfig, folder: RunFolder, source: ResumeSource | None) -> None:
    """Print where a resumed run starts."""
    if source is not None:
        print_line(console, f"resuming from {source.path}, {_describe_position(source)} done.")
    elif config.training.resume.enabled:
        print_line(
            console,
            f"training.resume.checkpoint=auto: {folder.base} holds no checkpoint yet, so training starts fresh.",
        )


def _describe_position(source: ResumeSource) -> str:
    return f"{pluralize(source.step or 0, 'step')} and {pluralize(source.epochs_done or 0, 'epoch')}"


def print_complete(console: Console, config: TrainConfig, source: ResumeSource) -> None:
    """Print that nothing is left to do."""
    reason = source.completion(config)
    if reason == "training.max_steps":
        done = f"done {pluralize(source.step or 0, 'step')} ({reason}={config.training.max_steps})"
        advice = f"Increase {reason} to extend the run"
    elif reason == "training.epochs":
        done = f"done {pluralize(source.epochs_done or 0, 'epoch')} ({reason}={config.training.epochs})"
        advice = f"Increase {reason} to extend the run"
    else:
        done = f"ended after {pluralize(source.step or 0, 'step')} ({reason})"
        advice = f"Change {reason} to continue"
    print_line(console, f"already complete: {source.path} has {done}; nothing is trained or written. {advice}.")


def print_end(console: Console, reason: str, step: int) -> None:
    """Print why a run ended before its last epoch was complete."""
    print_and_log(console, f"training ends after step {step}: {reason}")


def print_stopped(console: Console, folder: RunFolder, stop: RunStopped, resume: ResumeSettings) -> None:
    """Print how to resume a stopped run; the command of a sweep resumes its own jobs."""
    saved = "without saving" if stop.step is None else f"after step {stop.step}, which is saved"
    print_line(console, f"stopped {saved} ({stop.why}).")
    if (folder.base / CONFIG).is_file() and not (folder.base / RECORD).exists():
        print_line(console, f"resume it with: {resume_command(folder.base, resume)}")


def resume_command(run_folder: Path, resume: ResumeSettings) -> str:
    """Return the command that resumes a run with the settings in its folder.

    Args:
        run_folder: Run folder.
        resume: Resume settings of the run. The command does not repeat its resets.
    """
    resets = [name for name in ("reset_optimizer", "reset_scheduler") if getattr(resume, name)]
    return command(
        "run",
        run_folder / CONFIG,
        setting("output.base_dir", run_folder),
        "training.resume.enabled=true",
        "training.resume.checkpoint=auto",
        *(f"training.resume.{name}=false" for name in resets),
    )


def print_summary(summary: TrainingSummary, console: Console) -> None:
    """Print the results of a run."""
    if summary.best_value is not None:
        print_line(console, f"best {summary.metric} {format_metric(summary.best_value)} in epoch {summary.best_epoch}")
        print_line(console, f"best checkpoint {summary.best_checkpoint or 'none: its file was removed'}")
    if summary.evaluation is not None:
        seconds, share = summary.evaluation["seconds"], summary.evaluation["share_of_time"]
        print_line(console, f"evaluation took {seconds:.0f} s, {share:.0%} of the time")
    last, steps = summary.last_checkpoint, pluralize(summary.steps, "step")
    print_line(
        console,
        f"last checkpoint {last or 'none: its file was removed after it was saved'}\n"
        f"{steps} in {summary.train_seconds:.0f} s, {summary.images_per_second:.0f} images/s, "
        f"peak memory {summary.peak_memory_mb:.0f} MB",
    )
    if last is not None:
        checkpoint = setting("ckpt", summary.run_folder)
        print_line(console, f"sample from it: {command('sample', checkpoint)}")
        print_line(console, f"evaluate it: {command('evaluate', checkpoint)}")


def warn_about_settings(
    config: TrainConfig, module: DiffusionModule, data: ImageDataModule, length: ScheduleSpan
) -> None:
    """Warn about settings that are allowed and yet unlikely to be intended."""
    for message in (
        *terminal_noise_warnings(module.denoiser.schedule, config.model.diffusion),
        *weighting_warnings(module.loss, module.denoiser, config.training.loss.weighting.type),
        *batch_warnings(data),
        *accumulation_warnings(config.training.accumulate_batches, data.steps_per_epoch),
        *(() if module.ema is None else ema_warnings(module.ema, length.steps)),
        *max_steps_warnings(config.training, length.steps),
    ):
        warnings.warn(message, ConfigWarning, stacklevel=3)


@contextlib.contextmanager
def quiet_lightning() -> Iterator[None]:
    """Suppress Lightning's tips, and its warnings about what is intended here."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for message in (
            ".*does not have many workers.*",  # images in memory need none
            ".*smaller than the logging interval.*",  # small data sets; each epoch has its line anyway
            ".*callbacks used to create the checkpoint need to be provided.*",  # changed ones are reported
            ".*in eval mode at the start of training.*",  # the EMA is
            ".*treespec, LeafSpec.*",  # caused by Lightning
        ):
            warnings.filterwarnings("ignore", message=message)
        try:
            yield
        finally:
            logger.setLevel(level)
