"""Short names of runs, from what tells them apart."""

from __future__ import annotations

from collections.abc import Sequence

from diffusion_lab.reports.records import RunRecord
from diffusion_lab.reports.settings import comparable, short_names

MAX_KEYS = 4
"""Most settings in a label; runs that need more are shown by their folder."""


def labels_of(runs: Sequence[RunRecord], varied: Sequence[str]) -> list[str]:
    """Return a label of each run, in which a reader recognizes it: what varies, else the name of its folder.

    For the jobs of a sweep, these are the overrides that differ. For other runs, the fewest settings by which they
    differ. Equal labels are replaced by the names of the folders.
    """
    if len(runs) == 1:
        return [runs[0].name]
    if all(run.job is not None and run.job.overrides for run in runs):
        labels = _by_overrides(runs)
    else:
        labels = _by_settings(runs, varied)
    return [label if label and labels.count(label) == 1 else run.name for label, run in zip(labels, runs, strict=True)]


def _by_overrides(runs: Sequence[RunRecord]) -> list[str]:
    overrides = [dict(part.partition("=")[::2] for part in run.job.overrides) for run in runs if run.job]
    keys = dict.fromkeys(key for own in overrides for key in own)
    varying = [key for key in keys if len({own.get(key) for own in overrides}) > 1]
    names = short_names([key.lstrip("+~").replace("/", ".") for key in varying])
    shown = dict(zip(varying, names.values(), strict=True))
    return [", ".join(_shown(key, shown[key], own[key]) for key in varying if key in own) for own in overrides]


def _by_settings(runs: Sequence[RunRecord], varied: Sequence[str]) -> list[str]:
    """Take varied keys until all runs differ, leaving out those that separate no further runs."""
    chosen: list[str] = []
    kinds = 1
    for key in varied:
        separated = len({_values(run, [*chosen, key]) for run in runs})
        if separated > kinds:
            chosen.append(key)
            kinds = separated
        if kinds == len(runs):
            break
    if not chosen or len(chosen) > MAX_KEYS:
        return [run.name for run in runs]
    names = short_names(chosen)
    return [
        ", ".join(_shown(key, names[key], _text(run.settings[key])) for key in chosen if key in run.settings)
        for run in runs
    ]


def _values(run: RunRecord, keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(comparable(run.settings.get(key)) for key in keys)


def _shown(key: str, name: str, value: str) -> str:
    """Return a value, with its name where the value does not explain itself: ``adamw``, ``learning_rate 0.008``."""
    plain = "." not in key.lstrip("+~") or key.endswith(".type")
    return value if plain and value[:1].isalpha() and value not in ("true", "false", "null") else f"{name} {value}"


def _text(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value)
