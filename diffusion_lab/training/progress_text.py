"""Progress of training in words: two lines on a terminal, and short lines in a file, that fit into their width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diffusion_lab.training.watched_metric import format_metric

GAP = "  "
LINE_WIDTH = 80
"""Most characters of a line in a file."""

LONGEST_BAR, SHORTEST_BAR = 48, 8


@dataclass(frozen=True)
class Progress:
    """Position and newest values of a run.

    Attributes:
        epoch: The current epoch, counted from 1.
        epochs: Epochs of the complete run; None if it has no limit.
        step: Optimizer steps done.
        steps: Those of the complete run; None if unknown.
        loss: Running mean of the training loss; None before the first batch.
        quality: Name and last value of the quality of samples, or of the validation loss; None if there is none yet.
        val_loss: Last validation loss, if that is not ``quality``.
        images_per_second: Training images per second; None if unknown.
        elapsed: Seconds since the start.
        left: Seconds to the end; None if unknown.
        is_over: Whether the run has ended.
    """

    epoch: int
    epochs: int | None = None
    step: int = 0
    steps: int | None = None
    loss: float | None = None
    quality: tuple[str, float] | None = None
    val_loss: float | None = None
    images_per_second: float | None = None
    elapsed: float = 0.0
    left: float | None = None
    is_over: bool = False

    @property
    def share(self) -> float | None:
        """Share of the steps that is done, in [0, 1]; None if their number is unknown."""
        return min(self.step / self.steps, 1.0) if self.steps else None


@dataclass(frozen=True)
class _Part:
    """A part of a line: its forms from the longest to the shortest; an empty one leaves it out.

    Attributes:
        importance: Parts of lower importance are shortened first.
    """

    forms: Sequence[str]
    importance: int


def file_line(progress: Progress, width: int = LINE_WIDTH) -> str:
    """Return the line about a run for a file.

    >>> file_line(Progress(3, 40, 60, 800, 0.25, ("val/loss", 0.28), None, 1083.4, 5.0, 61.0))
    'epoch 3/40  step 60/800  loss 0.2500  val/loss 0.2800  1,083 images/s  61 s left'
    """
    parts = [
        _Part(_epoch(progress), 9),
        _Part([*_step(progress), ""], 3),
        _Part(_loss(progress), 9),
        _Part(_val_loss(progress), 1),
        _Part(_quality(progress), 5),
        _Part(_speed(progress), 4),
        _Part(_left(progress), 6),
    ]
    return _fitted(parts, width)


def terminal_lines(progress: Progress, width: int, bar: tuple[str, str] = ("━", "╸")) -> tuple[str, str]:
    """Return the two lines about a run for a terminal.

    Args:
        progress: The progress.
        width: Columns of the terminal, which no line fills.
        bar: Characters of what is done, and of its end.
    """
    width = max(width - 1, 1)  # some terminals wrap a full line
    share = progress.share
    before = _Part(_epoch(progress), 9)
    after = [
        _Part([] if share is None else [f"{share:.0%}", ""], 5),
        _Part([*_step(progress), ""], 4),
        _Part(_left(progress), 6),
    ]
    first = _fitted([before, *after], width)
    room = min(width - len(first) - len(GAP), LONGEST_BAR)
    if share is not None and room >= SHORTEST_BAR:
        first = _fitted([before, _Part([_bar(share, room, bar)], 9), *after], width)
    second = _fitted(
        [
            _Part(_loss(progress), 9),
            _Part(_val_loss(progress), 2),
            _Part(_quality(progress), 5),
            _Part(_speed(progress), 4),
            _Part([] if progress.is_over else [f"{duration(progress.elapsed)} so far", ""], 1),
        ],
        width,
    )
    return first, second


def duration(seconds: float) -> str:
    """Return a time in words, exact enough to plan with.

    >>> [duration(seconds) for seconds in (8.4, 90, 250, 4000, 9000, 200_000)]
    ['8 s', '90 s', '4 min 10 s', '1 h 6 min', '2 h 30 min', '2 d 7 h']
    """
    whole = round(seconds)
    minutes, hours = whole // 60, whole // 3600
    if whole < 100:
        return f"{whole} s"
    if minutes < 10:
        return f"{minutes} min {whole % 60} s"
    if hours < 1:
        return f"{minutes} min"
    return f"{hours} h {minutes % 60} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def _fitted(parts: Sequence[_Part], width: int) -> str:
    """Join the longest forms of the parts that fit into a width; the least important are shortened first."""
    chosen = [0] * len(parts)

    def text() -> str:
        return GAP.join(form for part, index in zip(parts, chosen, strict=True) if (form := _form(part, index)))

    while len(text()) > width:
        open_parts = [number for number, part in enumerate(parts) if chosen[number] + 1 < len(part.forms)]
        if not open_parts:
            return text()[:width]
        chosen[min(open_parts, key=lambda number: parts[number].importance)] += 1
    return text()


def _form(part: _Part, index: int) -> str:
    return part.forms[index] if part.forms else ""


def _epoch(progress: Progress) -> list[str]:
    return [f"epoch {progress.epoch}" + ("" if progress.epochs is None else f"/{progress.epochs}")]


def _step(progress: Progress) -> list[str]:
    short = f"step {progress.step:,}"
    return [short] if progress.steps is None else [f"{short}/{progress.steps:,}", short]


def _loss(progress: Progress) -> list[str]:
    return [] if progress.loss is None else [f"loss {format_metric(progress.loss)}"]


def _val_loss(progress: Progress) -> list[str]:
    return [] if progress.val_loss is None else [f"val/loss {format_metric(progress.val_loss)}", ""]


def _quality(progress: Progress) -> list[str]:
    if progress.quality is None:
        return []
    name, value = progress.quality
    short = name.removeprefix("val/")
    names = [name] if short.startswith("loss") else [name, short]  # not the training loss
    return [f"{each} {format_metric(value)}" for each in names] + [""]


def _speed(progress: Progress) -> list[str]:
    speed = progress.images_per_second
    if speed is None:
        return []
    number = f"{speed:,.0f}" if speed >= 100 else f"{speed:.3g}"
    return [f"{number} images/s", f"{number} img/s", ""]


def _left(progress: Progress) -> list[str]:
    if progress.is_over:
        return [f"done in {duration(progress.elapsed)}", duration(progress.elapsed)]
    return [] if progress.left is None else [f"{duration(progress.left)} left", ""]


def _bar(share: float, width: int, characters: tuple[str, str]) -> str:
    full, end = characters
    done = int(share * width)
    return (full * done + (end if done < width else "")).ljust(width)
