"""Which run is best by which metric, among those that measure the same, with error bars where they are known."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any

from diffusion_lab.metric_names import direction_of
from diffusion_lab.reports.charts import QUALITY, quality_title
from diffusion_lab.reports.curves import best_of
from diffusion_lab.reports.records import Interval, RunRecord, count, number
from diffusion_lab.reports.settings import SEED
from diffusion_lab.sweeps.comparable import difference, measured_by

NOT_EXPERIMENT = ("output.", "logger.", "training.resume.", SEED, "experiment")
"""Keys in which repetitions of one experiment may differ."""

T_QUANTILES = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)
"""Two-sided 95 % quantiles of Student's t distribution for 1, 2, … degrees of freedom."""


@dataclass(frozen=True)
class Entry:
    """One run in a ranking, or several that differ only in the seed: their numbers in the report, and the value."""

    runs: tuple[int, ...]
    value: Interval
    null: Interval | None = None


@dataclass
class Ranking:
    """Runs by one metric, best first.

    Attributes:
        title: Name of the metric.
        better: ``lower`` or ``higher``.
        source: Where the values come from.
        entries: The runs; each value measures the same.
        group: How this differs from other rankings by the same metric; empty if there is only one.
        tied: Number of entries after the first whose interval overlaps that of the first; None without intervals.
    """

    title: str
    better: str
    source: str
    entries: list[Entry]
    group: str = ""
    tied: int | None = field(default=None)


def rankings(runs: Sequence[RunRecord]) -> list[Ranking]:
    """Return the rankings of at least two runs, those by ``evaluate.py`` first, since they have intervals."""
    found = [*_evaluated(runs), *_logged(runs)]
    return [ranking for ranking in found if len({run for entry in ranking.entries for run in entry.runs}) > 1]


def _evaluated(runs: Sequence[RunRecord]) -> Iterator[Ranking]:
    groups: dict[tuple[str, str, str], list[Entry]] = {}
    better = {}
    for index, run in enumerate(runs):
        for row in run.quality:
            key = (row.name, row.sampling, row.conditions)
            better[key] = row.better
            groups.setdefault(key, []).append(Entry((index,), row.estimate, row.null))
    for (name, sampling, conditions), entries in groups.items():
        title, features = quality_title(name)
        samples = count(json.loads(conditions).get("num_samples"))
        source = f"evaluate.py, {sampling}" + (f", {samples:,} samples" if samples else "")
        same_name = [key for key in groups if key[:2] == (name, sampling)]
        group = "" if len(same_name) == 1 else f"real images {same_name.index((name, sampling, conditions)) + 1}"
        label = f"{title} ({features})" if features else title
        yield _ranked(label, better[name, sampling, conditions], source, entries, group)


def _logged(runs: Sequence[RunRecord]) -> Iterator[Ranking]:
    names = dict.fromkeys(name for run in runs for name in run.curves if QUALITY.match(name))
    for name in [*names, "val/loss"]:
        groups: dict[str, list[int]] = {}
        measured: list[Mapping[str, Any]] = []
        for index, run in enumerate(runs):
            if name in run.curves and (measures := _measured(run, name)) is not None:
                key = json.dumps(measures, sort_keys=True, default=str)
                if key not in groups:
                    measured.append(measures)
                groups.setdefault(key, []).append(index)
        differences = difference(measured) if len(measured) > 1 else [""] * len(measured)
        for members, group in zip(groups.values(), differences, strict=True):
            yield _by_curve(runs, members, name, group)


def _by_curve(runs: Sequence[RunRecord], members: Sequence[int], name: str, group: str) -> Ranking:
    mode = direction_of(name)
    best = {index: best_of(runs[index].curves[name].values, mode) for index in members}
    entries = [Entry(seeds, value) for seeds in _repetitions(runs, members) if (value := _mean(best, seeds))]
    null = _null_of([runs[index] for index in members], name)
    title, features = ("Validation loss", "") if name == "val/loss" else quality_title(name)
    source = "best value during training" + (", mean over seeds" if any(len(e.runs) > 1 for e in entries) else "")
    entries = [Entry(entry.runs, entry.value, null) for entry in entries]
    label = f"{title} ({features})" if features else title
    return _ranked(label, "higher" if mode == "max" else "lower", source, entries, group)


def _ranked(title: str, better: str, source: str, entries: list[Entry], group: str) -> Ranking:
    entries = sorted(entries, key=lambda entry: entry.value.value, reverse=better == "higher")
    bars = [(entry.value.low, entry.value.high) for entry in entries]
    tied = None
    if bars and None not in bars[0]:
        low, high = bars[0]
        others = [(a, b) for a, b in bars[1:] if a is not None and b is not None]
        tied = sum(a <= high and b >= low for a, b in others) if others else None  # type: ignore[operator]
    return Ranking(title, better, source, entries, group, tied)


def _measured(run: RunRecord, name: str) -> Mapping[str, Any] | None:
    """Return what a logged metric of a run measures; None if its settings are incomplete."""
    training = run.tree.get("training")
    validation = training.get("validation") if isinstance(training, dict) else None
    if not isinstance(validation, dict):
        return None
    metric = "loss" if name == "val/loss" else name
    tree = {**run.tree, "training": {**training, "validation": {**validation, "metric": metric, "mode": None}}}  # type: ignore[dict-item]
    try:
        return measured_by(tree, run.facts)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _repetitions(runs: Sequence[RunRecord], members: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the members in groups that differ only in the seed."""
    groups: dict[str, list[int]] = {}
    for index in members:
        settings = {k: v for k, v in runs[index].settings.items() if not k.startswith(NOT_EXPERIMENT)}
        groups.setdefault(json.dumps(settings, sort_keys=True, default=str), []).append(index)
    return [tuple(group) for group in groups.values()]


def _mean(values: Mapping[int, float | None], seeds: Sequence[int]) -> Interval | None:
    """Return the mean over runs that differ only in the seed, with Student's t interval if there are several."""
    known = [value for index in seeds if (value := values[index]) is not None]
    if not known:
        return None
    if len(known) == 1:
        return Interval(known[0])
    quantile = T_QUANTILES[min(len(known) - 1, len(T_QUANTILES)) - 1]
    margin = quantile * stdev(known) / math.sqrt(len(known))
    return Interval(mean(known), mean(known) - margin, mean(known) + margin)


def _null_of(runs: Sequence[RunRecord], name: str) -> Interval | None:
    for run in runs:
        null = null_values(run).get(name)
        if null is not None:
            return Interval(null)
    return None


def null_values(run: RunRecord) -> dict[str, float]:
    """Return the values of real images in place of samples, for the metrics logged during training."""
    evaluation = run.facts.get("evaluation")
    nulls = evaluation.get("null") if isinstance(evaluation, dict) else None
    values = {}
    for name, null in (nulls or {}).items() if isinstance(nulls, dict) else ():
        value = number(null.get("value")) if isinstance(null, dict) else None
        if value is not None:
            values[name] = value
    return values
