"""Time, memory and disk space of a run, from what its rehearsal measured."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.metric_names import is_evaluated
from diffusion_lab.preview.rehearsal import Timing
from diffusion_lab.training.callbacks.checkpoints import NEWEST_KEPT
from diffusion_lab.training.prepare import PreparedRun
from diffusion_lab.typed_settings.section import duration_of


@dataclass(frozen=True)
class Counts:
    """How often each part of a run happens.

    Each validation is taken to be the best so far, which saves a checkpoint. ``kept`` are the checkpoints that then
    remain, ``most_kept`` those that may remain: an earlier best one is a file of its own.
    """

    batches: int
    epochs: int
    validations: int
    grids: int
    evaluations: int
    saved: int
    kept: int
    most_kept: int


def count_parts(run: PreparedRun) -> Counts:
    """Count the parts of what remains of a run."""
    config, epochs = run.config, run.epochs
    training = config.training
    validation, evaluated, metric = training.validation, config.evaluation, training.validation.logged_metric
    shown = training.visualization
    validated = _multiples(epochs, validation.frequency) if run.data.val is not None else set()
    evaluations = _multiples(epochs, evaluated.interval(run.last_epoch), last=True) if evaluated.enabled else set()
    periodic = _multiples(epochs, training.checkpointing.save_frequency)
    best = evaluations if is_evaluated(metric) and not training.callbacks else validated
    saved = sorted(periodic | best | {epochs[-1]}, reverse=True)
    newest = training.checkpointing.keep_last or NEWEST_KEPT
    all_periodic = training.checkpointing.keep_last is None and not training.checkpointing.save_best_only
    remaining = periodic if all_periodic else set()
    kept = {*saved[:newest], *remaining, *sorted(best)[-1:]}
    return Counts(
        batches=min(len(epochs) * run.data.steps_per_epoch, len(run.steps) * training.accumulate_batches),
        epochs=len(epochs),
        validations=len(validated),
        grids=len(_multiples(epochs, shown.interval, last=True)) if shown.enabled else 0,
        evaluations=len(evaluations),
        saved=len(saved),
        kept=len(kept),
        most_kept=min(newest + 1 + len(remaining), len(saved)),
    )


def _multiples(epochs: range, interval: int, last: bool = False) -> set[int]:
    found = {epoch for epoch in epochs if epoch % interval == 0}
    return found | {epochs[-1]} if last else found


@dataclass(frozen=True)
class Estimate:
    """Estimate of what remains of a run."""

    config: TrainConfig
    counts: Counts
    timing: Timing
    batch_images: float
    """Mean number of images in a training batch."""

    @cached_property
    def parts(self) -> dict[str, float]:
        """Seconds by part; without the start of the program, and without custom callbacks and loggers."""
        counts, timing = self.counts, self.timing
        return {
            "training": timing.warm_up + counts.batches * timing.batch + counts.epochs * timing.between_epochs,
            "validation": counts.validations * (timing.validation or 0.0),
            "sample_grids": counts.grids * (timing.grid or 0.0),
            "evaluation": counts.evaluations * (timing.evaluation or 0.0),
            "checkpoints": counts.saved * timing.checkpoint,
        }

    @property
    def all_epochs(self) -> float:
        """Seconds for all epochs."""
        return sum(self.parts.values())

    @property
    def limit(self) -> float:
        """``training.max_time`` in seconds; infinite without it."""
        limit = self.config.training.max_time
        return math.inf if limit is None else duration_of(limit).total_seconds()

    @property
    def seconds(self) -> float:
        """Seconds until the run ends."""
        return min(self.all_epochs, self.limit)

    @property
    def images_per_second(self) -> float:
        """Images trained on per second, without validation and samples."""
        return self.batch_images * self.counts.batches / max(self.parts["training"], 1e-9)

    @property
    def disk_bytes(self) -> int:
        """Disk space of the checkpoints that are kept."""
        return self.counts.kept * self.timing.checkpoint_bytes

    @property
    def most_disk_bytes(self) -> int:
        """Disk space of all checkpoints that may be kept."""
        return self.counts.most_kept * self.timing.checkpoint_bytes

    def as_json(self) -> dict[str, Any]:
        """Return the figures in plain containers; sizes in bytes."""
        return {
            "seconds": round(self.seconds, 2),
            "seconds_by_part": {name: round(seconds, 2) for name, seconds in self.parts.items()},
            "seconds_per_batch": round(self.timing.batch, 6),
            "measured_batches": len(self.timing.batches),
            "images_per_second": round(self.images_per_second, 1),
            "batches": self.counts.batches,
            "validations": self.counts.validations,
            "sample_grids": self.counts.grids,
            "evaluations": self.counts.evaluations,
            "peak_memory_bytes": self.timing.peak_memory,
            "checkpoint_bytes": self.timing.checkpoint_bytes,
            "checkpoints_kept": self.counts.kept,
            "checkpoints_kept_at_most": self.counts.most_kept,
            "disk_bytes": self.disk_bytes,
            "disk_bytes_at_most": self.most_disk_bytes,
        }


def format_seconds(seconds: float) -> str:
    """Format a duration with two units at most.

    >>> format_seconds(4.26), format_seconds(75), format_seconds(7300), format_seconds(200_000)
    ('4.3 s', '1 min 15 s', '2 h 1 min', '2 d 7 h')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    units = list(_units(round(seconds)))[:2]
    return " ".join(f"{number} {name}" for number, name in units if number or len(units) == 1)


def _units(seconds: int) -> Iterator[tuple[int, str]]:
    """Yield the units of a duration from the largest that it contains."""
    rest, began = seconds, False
    for size, name in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")):
        number, rest = divmod(rest, size)
        began = began or number > 0 or size == 1
        if began:
            yield number, name
