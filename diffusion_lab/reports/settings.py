"""Settings of the runs: what differs between them, and what differs from the defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusion_lab.reports.records import RunRecord, number

SEED = "compute.seed"
NOT_COMPARED = ("output.", "logger.", "training.resume.")
"""Keys that say where results go, not what is done."""

MEANINGLESS = ("type", "enabled", "mode", "name", "scale", "interval", "steps", "value", "fraction", "features")
"""Last parts of keys that need the part before them."""

MISSING = object()


def default_values(conf: Path | None) -> dict[str, Any]:
    """Return by dotted key what ``train.py`` composes without arguments; empty if its folder of settings is missing."""
    if conf is None or not (conf / "train.yaml").is_file():
        return {}
    from diffusion_lab.cli.conf_files import ConfFiles  # imports Hydra

    values = ConfFiles(conf, "train").composed({})
    return {key: value for key, value in values.items() if "${" not in str(value)}


def varied_keys(runs: Sequence[RunRecord]) -> list[str]:
    """Return the keys in which runs differ, those of sweeps' overrides first, the seed last.

    A key that only some runs have is one of them. Runs without any settings are left out.
    """
    known = [run.settings for run in runs if run.settings]
    keys = dict.fromkeys(key for settings in known for key in settings if not key.startswith(NOT_COMPARED))
    varied = [key for key in keys if len({comparable(settings.get(key, MISSING)) for settings in known}) > 1]
    typed = {override.lstrip("+~").partition("=")[0] for run in runs if run.job for override in run.job.overrides}
    return sorted(varied, key=lambda key: (key == SEED, key not in typed, key == "experiment"))


def differs_from_default(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """Return the keys whose value is not the default. ``auto`` is none: a run records what it stood for."""
    return [
        key
        for key, value in settings.items()
        if key in defaults
        and defaults[key] != "auto"
        and not key.startswith(NOT_COMPARED)
        and comparable(value) != comparable(defaults[key])
    ]


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Return the shortest unique end of each dotted key that says something by itself.

    >>> short_names(["training.optimizer.type", "training.scheduler.type", "training.epochs"]).values()
    dict_values(['optimizer.type', 'scheduler.type', 'epochs'])
    """
    names = {}
    for key in keys:
        parts = key.split(".")
        for count in range(1, len(parts) + 1):
            name = ".".join(parts[-count:])
            unique = sum(other == name or other.endswith(f".{name}") for other in keys) == 1
            if unique and name not in MEANINGLESS:
                break
        names[key] = name
    return names


def comparable(value: Any) -> str:
    """Return a text that is equal for equal values: 1 and 1.0, a list and a tuple."""
    if isinstance(value, bool) or value is None or value is MISSING:
        return repr(value) if value is not MISSING else "missing"
    if isinstance(value, int | float):
        return repr(value if number(value) is None else float(value))
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(comparable, value)) + "]"
    return f"text {value}"
