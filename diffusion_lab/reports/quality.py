"""Results of ``evaluate.py``: metrics with intervals and null rows, and samples next to training images."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffusion_lab.files.reading import read_json
from diffusion_lab.reports.records import ClassQuality, Interval, Picture, QualityRow, count, number

EVALUATION = "evaluation/evaluation.json"
"""Path of the results in the folder of a run or a sweep."""

NEAREST = "nearest.png"
NOT_SHARED = ("held_out_images", "held_out_fingerprint")
"""Conditions that do not change what a value means."""


@dataclass
class QualityFile:
    """Results in one file: those of all runs, and by the name of the run folder for a sweep."""

    rows: list[QualityRow] = field(default_factory=list)
    nearest: list[Picture] = field(default_factory=list)
    by_run: dict[str, QualityFile] = field(default_factory=dict)


def read_quality(file: Path) -> QualityFile:
    """Return the results in ``evaluation.json``.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not valid JSON, or not a file of this kind.
    """
    content = read_json(file)
    results = content.get("results") if isinstance(content, dict) else None
    if not isinstance(results, list):
        raise ValueError("it has no results")
    quality = QualityFile()
    for result in results:
        if not isinstance(result, dict):
            continue
        samples, conditions = _mapping(result.get("samples")), _mapping(result.get("conditions"))
        sampling = describe_sampling(samples)
        rows = list(_rows(_mapping(result.get("measurement")), sampling, conditions))
        pictures = list(_nearest(file.parent, samples, sampling))
        run = next(iter(Path(str(samples.get("checkpoint", ""))).parts), "")
        part = quality.by_run.setdefault(run, QualityFile())
        for target in (quality, part):
            target.rows.extend(rows)
            target.nearest.extend(pictures)
    return quality


def describe_sampling(samples: Mapping[str, Any]) -> str:
    """Describe how the samples of a result were made.

    >>> describe_sampling({"sampler": "ddim", "steps": 10, "guidance_scale": 2.0, "use_ema": False})
    'ddim, 10 steps, guidance 2, weights without averaging'
    """
    parts = [str(samples.get("sampler", "samples"))]
    if isinstance(samples.get("steps"), int):
        parts.append(f"{samples['steps']} steps")
    scale = samples.get("guidance_scale")
    if isinstance(scale, int | float) and scale not in (0, 1):
        parts.append(f"guidance {scale:g}")
    if samples.get("use_ema") is False:
        parts.append("weights without averaging")
    if isinstance(samples.get("seed"), int) and samples["seed"] != 0:
        parts.append(f"seed {samples['seed']}")
    return ", ".join(parts)


def _rows(measurement: Mapping[str, Any], sampling: str, conditions: Mapping[str, Any]) -> Iterator[QualityRow]:
    rows = measurement.get("rows")
    shared = {key: value for key, value in conditions.items() if key not in NOT_SHARED}
    for row in rows if isinstance(rows, list) else []:
        estimate = _interval(row.get("estimate")) if isinstance(row, dict) else None
        if estimate is None or not isinstance(row.get("name"), str):
            continue
        null = _mapping(row.get("null"))
        yield QualityRow(
            name=row["name"],
            better="higher" if row.get("better") == "higher" else "lower",
            sampling=sampling,
            estimate=estimate,
            null=_interval(null.get("estimate")),
            matched=_interval(null.get("matched")),
            n=count(row.get("n")) or 0,
            conditions=json.dumps(shared, sort_keys=True, default=str),
            classes=_classes(_mapping(row.get("classes")), row.get("better") == "higher"),
        )


def _classes(values: Mapping[str, Any], higher_is_better: bool) -> tuple[ClassQuality, ...]:
    """Return the known values of classes, the worst first."""
    known = [
        ClassQuality(name, estimate, _interval(value.get("null")))
        for name, value in values.items()
        if (estimate := _interval(value)) is not None
    ]
    return tuple(sorted(known, key=lambda each: each.estimate.value, reverse=not higher_is_better))


def _nearest(folder: Path, samples: Mapping[str, Any], sampling: str) -> Iterator[Picture]:
    """Yield the image of nearest pairs; the folder of the samples is looked up inside that of the results."""
    parts = Path(str(samples.get("folder", ""))).parts[-2:]
    file = folder.joinpath(*parts, NEAREST)
    if len(parts) == 2 and ".." not in parts and file.is_file():
        yield Picture(file, f"{sampling}: sample | nearest training image")


def _interval(value: Any) -> Interval | None:
    middle = number(value.get("value")) if isinstance(value, dict) else None
    return None if middle is None else Interval(middle, number(value.get("low")), number(value.get("high")))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
