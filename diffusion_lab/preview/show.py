"""``preview=true``: a picture of what a run will see, and an estimate of what it will take. Nothing is trained."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from diffusion_lab.config.schema import LoggerSettings, TrainConfig
from diffusion_lab.config.suspicious_settings import suspicious_settings
from diffusion_lab.config.validate import check_ready_to_start
from diffusion_lab.console.terminal import resilient_stderr
from diffusion_lab.console.warning_display import Display, display_warnings_with
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.faults import ConfigWarning
from diffusion_lab.networks.cost import count_parameters
from diffusion_lab.preview.estimate import Estimate, count_parts, format_seconds
from diffusion_lab.preview.files import check_replaceable, save_figures, save_picture
from diffusion_lab.preview.picture import draw_picture
from diffusion_lab.preview.rehearsal import rehearse
from diffusion_lab.runs.folder import RunFolder
from diffusion_lab.runs.startup_lines import aligned, pluralize
from diffusion_lab.runtime.control_groups import read_limits
from diffusion_lab.runtime.determinism import deterministic
from diffusion_lab.runtime.devices import host_memory
from diffusion_lab.runtime.exit_on_signals import exit_on_signals
from diffusion_lab.runtime.threads import free_cores, usable_cores
from diffusion_lab.tracking.wandb_server import check_reachable
from diffusion_lab.training.console import describe_run, print_complete, print_line
from diffusion_lab.training.disk_space import check_disk_space, format_bytes, free_bytes
from diffusion_lab.training.fit import purpose_of
from diffusion_lab.training.prepare import PreparedRun, prepare_run
from diffusion_lab.training.resume_source import find_resume_source
from diffusion_lab.training.single_process import as_rank_zero
from diffusion_lab.typed_settings.settings_reader import SettingsReader

PICTURE, FIGURES = "preview.png", "preview.json"

BUSY_CORES = 0.5
"""Cores that other programs may use without a warning."""

MUCH_MEMORY = 0.85
"""Fraction of the memory of the machine above which there is a warning."""


def preview(config: TrainConfig, start: str, console: Console | None = None) -> str:
    """Draw what a run will see and estimate what it will take, from a few real steps on copies that are thrown away.

    ``preview.png`` and ``preview.json`` are written into ``output.base_dir``; a run in it stays as it is.

    Args:
        config: The checked settings.
        start: Command that starts the run.
        console: Console for messages; standard error if None.

    Returns:
        The estimate as text.

    Raises:
        ValueError, FileNotFoundError, PermissionError: The run would be refused; naming the key, value and rule.
        MemoryError: A training step does not fit into memory; the picture has been written then.
    """
    console = console or Console(stderr=True)
    with rehearsing(config) as seen:
        return _preview(config, start, console, seen)


@contextmanager
def rehearsing(config: TrainConfig) -> Iterator[list[str]]:
    """Set up the process as for a run; yields the warnings given so far."""
    check_ready_to_start(config)
    tree = SettingsReader(config.model_dump(mode="json"), TrainConfig)
    seen = list(suspicious_settings(tree))  # they were shown when the settings were checked
    with (
        resilient_stderr(),
        exit_on_signals(),
        deterministic(config.compute.deterministic),
        as_rank_zero(),
        display_warnings_with(partial(_note_and_show, seen)),
    ):
        yield seen


def _note_and_show(seen: list[str], warning: warnings.WarningMessage, show: Display) -> None:
    if issubclass(warning.category, UserWarning):
        seen.append(str(warning.message))
    show(warning)


def prepare(config: TrainConfig, console: Console) -> PreparedRun | None:
    """Prepare a run without loggers; None if the run to resume is already complete, which is printed.

    Warns:
        ConfigWarning: The run itself would be refused, since its folder is taken or W&B needs a login.
    """
    folder = RunFolder.from_settings(config.output)
    resumed = find_resume_source(config, folder)
    source = resumed[0] if resumed else None
    if source is not None and source.is_complete(config):
        print_complete(console, config, source)
        return None
    purpose = purpose_of(config, folder, source)
    try:
        folder.check_free(purpose)
        check_reachable(config.logger)
    except ValueError as error:
        warnings.warn(f"a run could not start with these settings: {error}", ConfigWarning, stacklevel=2)
    run = prepare_run(config.model_copy(update={"logger": LoggerSettings()}), folder, resumed, console)
    check_disk_space(run.config, run.module, folder.checkpoints, run.epochs, replaces=purpose == "replace")
    if config.training.callbacks:
        warnings.warn(
            "the classes of training.callbacks do not take part: their time and memory are not included",
            ConfigWarning,
            stacklevel=2,
        )
    return run


def _preview(config: TrainConfig, start: str, console: Console, seen: list[str]) -> str:
    folder = config.output.base_dir
    picture, figures = folder / PICTURE, folder / FIGURES
    check_replaceable(picture, figures)
    run = prepare(config, console)
    if run is None:
        return "nothing is left to train"
    save_picture(draw_picture(run), picture)
    _warn_about_busy_cores()
    print_line(console, "timing training steps, a validation, samples and a checkpoint, for half a minute or so …")
    try:
        timing = rehearse(run, console)
    except MemoryError as error:
        error.add_note(f"The picture has been written: {picture}")
        raise
    steps = run.data.steps_per_epoch
    batch_images = min(len(run.data.train), steps * run.data.batch_size) / steps  # the last batch may be smaller
    estimate = Estimate(run.config, count_parts(run), timing, batch_images)
    _warn_about_memory(run, estimate)
    found = Preview(run, estimate, tuple(dict.fromkeys(seen)), picture, start)
    save_figures(found.as_json(), figures)
    return found.text()


def _warn_about_busy_cores() -> None:
    busy = usable_cores() - free_cores()
    if busy > BUSY_CORES:
        warnings.warn(
            f"other programs use {busy:.1f} of the {usable_cores()} cores: the estimate holds only if they go on",
            ConfigWarning,
            stacklevel=2,
        )


def _warn_about_memory(run: PreparedRun, estimate: Estimate) -> None:
    share = estimate.timing.peak_memory / memory_of(run.device)
    if share > MUCH_MEMORY:
        warnings.warn(
            f"the run needs {share:.0%} of the memory of {run.device}: other programs may make it fail; a smaller "
            "data.loading.batch_size with training.accumulate_batches needs less",
            ConfigWarning,
            stacklevel=2,
        )


def memory_of(device: torch.device) -> float:
    """Return the memory of a GPU, else what this process may use of the machine's, in bytes; infinity if unknown."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return min(host_memory(), read_limits().memory or math.inf)


@dataclass(frozen=True)
class Preview:
    """Everything that is known about a run before it starts."""

    run: PreparedRun
    estimate: Estimate
    warnings: tuple[str, ...]
    picture: Path
    start: str

    def text(self) -> str:
        """Return the lines to print."""
        rows = describe_run(self.run)
        rows["images"] += _describe_balance(self.run.data)
        return f"{self.run.config.experiment}: a preview, nothing is trained\n" + aligned(
            {
                **rows,
                "steps": f"{len(self.run.steps):,} optimizer steps",
                "time": self._time(),
                "memory": self._memory(),
                "disk": self._disk(),
                "measured": f"in {pluralize(len(self.estimate.timing.batches), 'training batch', 'training batches')}"
                f", {_milliseconds(self.estimate.timing.batch)} each",
                "warnings": pluralize(len(self.warnings), "warning") + ", shown above" if self.warnings else "none",
                "look at": str(self.picture),
                "figures": str(self.picture.with_name(FIGURES)),
                "start it": self.start,
            }
        )

    def as_json(self) -> dict[str, Any]:
        """Return everything in plain containers."""
        run = self.run
        free = free_bytes(self.picture.parent)
        memory = memory_of(run.device)
        return {
            "experiment": run.config.experiment,
            "images": len(run.data.train),
            "validation_images": 0 if run.data.val is None else len(run.data.val),
            "image_shape": list(run.denoiser.image_shape),
            "images_by_class": _images_by_class(run.data),
            "left_out": run.data.remarks.counts(),
            "parameters": count_parameters(run.denoiser),
            "device": str(run.device),
            "threads": run.threads,
            "precision": str(run.denoiser.compute_dtype).removeprefix("torch."),
            "epochs": len(run.epochs),
            "steps": len(run.steps),
            "batch_size": run.data.batch_size,
            **self.estimate.as_json(),
            "memory_bytes": int(memory) if memory < float("inf") else None,
            "free_disk_bytes": free,
            "warnings": list(self.warnings),
        }

    def _time(self) -> str:
        estimate = self.estimate
        counts, parts = estimate.counts, estimate.parts
        names = {
            "training": f"training {{}} ({estimate.images_per_second:,.0f} images/s)",
            "validation": f"{pluralize(counts.validations, 'validation')} {{}}",
            "sample_grids": f"{pluralize(counts.grids, 'sample grid')} {{}}",
            "evaluation": f"{pluralize(counts.evaluations, 'evaluation')} {{}}",
            "checkpoints": f"{pluralize(counts.saved, 'checkpoint')} {{}}",
        }
        first, *rest = [name.format(format_seconds(parts[part])) for part, name in names.items() if parts[part]]
        listed = "\n".join(filter(None, (first, ", ".join(rest))))
        total = f"about {format_seconds(estimate.all_epochs)}, besides starting up"
        if estimate.limit < estimate.all_epochs:
            total += f"; training.max_time ends it after {format_seconds(estimate.limit)}"
        return f"{total}\n{listed}"

    def _memory(self) -> str:
        memory = memory_of(self.run.device)
        where = "this machine"
        if self.run.device.type != "cpu":
            where = str(self.run.device)
        elif memory < host_memory():
            where = "this container or job"
        of = f" of the {format_bytes(int(memory))} of {where}" if memory < float("inf") else ""
        return f"{format_bytes(self.estimate.timing.peak_memory)} at the peak{of}"

    def _disk(self) -> str:
        estimate, free = self.estimate, free_bytes(self.picture.parent)
        size = format_bytes(estimate.timing.checkpoint_bytes)
        kept, most = estimate.counts.kept, estimate.counts.most_kept
        at_most = "" if kept == most else f" ({most} at most)"
        checkpoints = f"{pluralize(kept, 'checkpoint')} of {size}{at_most}"
        available = "" if free is None else f"; {format_bytes(free)} free"
        return f"{format_bytes(estimate.disk_bytes)}, {checkpoints}{available}"


def _images_by_class(data: ImageDataModule) -> dict[str, int]:
    counts = np.bincount(data.train.labels, minlength=data.num_classes)
    return {name: int(count) for name, count in zip(data.class_names, counts, strict=False)}


def _describe_balance(data: ImageDataModule) -> str:
    """Describe how many images the classes have; nothing without classes."""
    counts = list(_images_by_class(data).values())
    if not data.labelled or len(counts) < 2:
        return ""
    low, high = min(counts), max(counts)
    return f" of {low:,} images each" if low == high else f" of {low:,} to {high:,} images"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
