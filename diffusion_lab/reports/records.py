"""Records of what run folders contain, as far as it could be read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffusion_lab.files.run_files import FACTS

LARGEST_COUNT = 2**53
"""Whole numbers up to here are exact in the page's script."""


def number(value: Any) -> float | None:
    """Return a value from a file if it is a finite number, else None.

    >>> number(1), number(True), number("1"), number(10**400), number(float("nan"))
    (1.0, None, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer of hundreds of digits
        return None


def count(value: Any) -> int | None:
    """Return a value from a file if it is a whole number that can count something, else None.

    >>> count(3), count(True), count(-1), count(10**400), count(3.0)
    (3, None, None, None, None)
    """
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_COUNT
    return value if is_count else None


@dataclass(frozen=True)
class Curve:
    """One logged metric over a run; the lists have the same length.

    Attributes:
        steps: Optimizer steps, counted from 0, in the order of the file.
        seconds: Seconds of training at that time.
        values: Its values; None for NaN and infinity.
    """

    steps: list[int]
    seconds: list[float]
    values: list[float | None]

    def __len__(self) -> int:
        return len(self.steps)


@dataclass(frozen=True)
class Picture:
    """An image file of a run.

    Attributes:
        file: Its path.
        caption: What it shows, also read aloud in its place.
        epoch: The epoch after which it was sampled, None if that does not apply.
    """

    file: Path
    caption: str
    epoch: int | None = None


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval; the bounds are None where none is known."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class ClassQuality:
    """A metric of the samples of one class, and of real images of the class in their place; None if unknown."""

    name: str
    estimate: Interval
    null: Interval | None


@dataclass(frozen=True)
class QualityRow:
    """One metric of ``evaluation.json`` for one way of sampling.

    Attributes:
        name: Name of the metric, with its features: ``kid_digits@8``.
        better: ``lower`` or ``higher``.
        sampling: How the samples were made: ``ddim, 50 steps, guidance 2``.
        estimate: The value of the samples.
        null: The value of real images in place of samples; None if unknown.
        matched: Value of the samples for exactly the numbers of images of the null row; None if these are the same.
        n: Number of samples.
        conditions: Everything that values must share to be comparable, except for how the samples were made.
        classes: Values of the classes, the worst first.
    """

    name: str
    better: str
    sampling: str
    estimate: Interval
    null: Interval | None
    matched: Interval | None
    n: int
    conditions: str
    classes: tuple[ClassQuality, ...] = ()


@dataclass(frozen=True)
class Job:
    """The record of a job of a sweep: overrides that may vary, state, and why it failed."""

    overrides: tuple[str, ...]
    state: str
    why: str | None
    measured: Mapping[str, Any] | None


@dataclass
class RunRecord:
    """What a run folder contains. Secrets are redacted. What cannot be read is empty, and named in ``notes``.

    Attributes:
        folder: The run folder.
        name: Name that identifies it among the runs of the report.
        tree: The settings.
        settings: The same by dotted key.
        status: Content of ``status.json``.
        summary: Content of ``summary.json``.
        environment: Content of ``environment.json``.
        curves: Logged metrics by name.
        epoch_ends: Last logged step of each epoch, by its number counted from 0, ascending; epochs may be missing.
        pictures: Sample grids, ascending by epoch.
        nearest: Samples next to the nearest training images, by how they were sampled.
        sampled: Images that the report sampled from the checkpoint itself.
        sampled_from: The checkpoint and the weights that these are of, in words; None if unknown.
        quality: Results of ``evaluate.py``.
        log: Last lines of ``run.log``.
        job: Its record, if it is a job of a sweep.
        has_checkpoint: Whether it can be sampled from or resumed.
        commands: What can be done with it, and the command, for a reader elsewhere; None for one on this machine.
        notes: Sentences about what could not be read.
    """

    folder: Path
    name: str
    tree: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)
    epoch_ends: dict[int, int] = field(default_factory=dict)
    pictures: list[Picture] = field(default_factory=list)
    nearest: list[Picture] = field(default_factory=list)
    sampled: list[Picture] = field(default_factory=list)
    sampled_from: str | None = None
    quality: list[QualityRow] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    job: Job | None = None
    has_checkpoint: bool = False
    commands: list[tuple[str, str]] | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def facts(self) -> dict[str, Any]:
        """What was known at its start, with what was known at its end; in older folders only the latter."""
        facts = self.environment.get(FACTS)
        return {**(facts if isinstance(facts, dict) else {}), **self.summary}

    @property
    def state(self) -> str:
        """State of the run: that of its folder, else that of the job, else ``unknown``."""
        if self.job is not None and self.job.state in ("died", "failed", "refused"):
            return self.job.state
        state = self.status.get("state")
        return state if isinstance(state, str) else (self.job.state if self.job is not None else "unknown")

    @property
    def why(self) -> str | None:
        """Why it stopped or failed."""
        why = self.status.get("why") or (self.job.why if self.job is not None else None)
        return why if isinstance(why, str) else None
