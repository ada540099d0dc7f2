"""Logged metrics of a run: reading ``metrics.jsonl``, deriving throughput, and thinning long curves."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from diffusion_lab.files.reading import read_regular
from diffusion_lab.reports.records import Curve, count, number

MAX_BYTES = 512 * 2**20
"""Largest ``metrics.jsonl`` that is read."""

NOT_METRICS = ("step", "seconds", "epoch")


def read_curves(file: Path) -> tuple[dict[str, Curve], dict[int, int], str | None]:
    """Read ``metrics.jsonl``, also while it is being written.

    Returns:
        The curves by name, the last logged step of each epoch by its number, and a note about lines that were skipped.

    Raises:
        OSError: The file is missing, unreadable or too large.
    """
    content = read_regular(file, MAX_BYTES)
    lines = content.split(b"\n")
    unfinished = lines.pop() if lines else b""  # the last line may be half written
    curves: dict[str, Curve] = {}
    epoch_ends: dict[int, int] = {}
    skipped = 0
    for text in [*lines, unfinished]:
        line = _line(text)
        if line is None:
            skipped += bool(text.strip()) and text is not unfinished
            continue
        step, seconds = line["step"], float(line["seconds"])
        epoch = count(line.get("epoch"))
        if epoch is not None:
            epoch_ends[epoch] = max(step, epoch_ends.get(epoch, 0))
        for name, value in line.items():
            if name in NOT_METRICS or isinstance(value, bool) or not isinstance(value, int | float):
                continue
            curve = curves.get(name)
            if curve is None:
                curve = curves[name] = Curve([], [], [])
            curve.steps.append(step)
            curve.seconds.append(seconds)
            curve.values.append(number(value))
    note = f"{skipped} lines of {file.name} are not valid and were skipped" if skipped else None
    return curves, dict(sorted(epoch_ends.items())), note


def _line(text: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(line, dict):
        return None
    return line if count(line.get("step")) is not None and number(line.get("seconds")) is not None else None


def throughput(curve: Curve, images_per_step: int, epoch_ends: Iterable[int]) -> Curve:
    """Return images per second between logged steps, without the pauses for validation and sampling between epochs.

    Args:
        curve: A metric that is logged during training.
        images_per_step: Batch size times accumulated batches.
        epoch_ends: Last step of each epoch; an interval that contains one is skipped.
    """
    ends = iter(sorted(epoch_ends))
    end = next(ends, None)
    result = Curve([], [], [])
    for index in range(1, len(curve)):
        before, step = curve.steps[index - 1], curve.steps[index]
        while end is not None and end < before:
            end = next(ends, None)
        if end is not None and before <= end < step:
            continue
        elapsed = curve.seconds[index] - curve.seconds[index - 1]
        if step > before and elapsed > 0:
            result.steps.append(step)
            result.seconds.append(curve.seconds[index])
            result.values.append((step - before) * images_per_step / elapsed)
    return result


def non_finite_steps(curves: Mapping[str, Curve]) -> list[int]:
    """Return the steps at which a loss or gradient norm was NaN or infinite, ascending."""
    steps: set[int] = set()
    for name, curve in curves.items():
        if "loss" in name or "norm" in name:
            steps.update(step for step, value in zip(curve.steps, curve.values, strict=True) if value is None)
    return sorted(steps)


def thinned(curve: Curve, most: int) -> Curve:
    """Return at most about ``most`` points of a curve that look like all of them.

    The curve is divided into parts of equal length; the smallest and the largest value of each are kept, so spikes
    stay visible, and the first and the last point.
    """
    count = len(curve)
    if count <= most:
        return curve
    parts = max(most // 2 - 1, 1)
    kept = {0, count - 1}
    for part in range(parts):
        span = range(part * count // parts, (part + 1) * count // parts)
        known = [index for index in span if curve.values[index] is not None]
        if len(known) < len(span):
            kept.add(next(index for index in span if curve.values[index] is None))
        if known:
            kept.add(min(known, key=lambda index: curve.values[index] or 0.0))
            kept.add(max(known, key=lambda index: curve.values[index] or 0.0))
    order = sorted(kept)
    return Curve(
        [curve.steps[index] for index in order],
        [curve.seconds[index] for index in order],
        [curve.values[index] for index in order],
    )


def significant(value: float | None, digits: int = 5) -> float | None:
    """Round to significant digits, so that the page stays small.

    >>> significant(0.123456789), significant(None)
    (0.12346, None)
    """
    return None if value is None or not math.isfinite(value) else float(f"{value:.{digits}g}")


def best_of(values: Iterable[float | None], mode: str) -> float | None:
    """Return the best of the known values, the largest if ``mode`` is ``max``; None if there is none."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return max(known) if mode == "max" else min(known)
