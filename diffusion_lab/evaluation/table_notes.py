"""Notes below a table: sources of null rows, skipped metrics, remarks and times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from diffusion_lab.console.terminal import on_one_line
from diffusion_lab.evaluation.result import Result
from diffusion_lab.evaluation.table_rows import describe_key, describe_setting

REAL, MATCHED, SECONDS = "real images", "matched", "seconds"
"""Names of a row and of columns."""

NAMES = ("generation.checkpoint", "evaluation.samples")
"""Keys whose values are the names of results."""

BEST = "*"
"""Mark of the best value of a column."""


def notes(group: Sequence[Result]) -> Iterator[str]:
    """Yield the notes on a table: meaning of the columns, skipped metrics, and notes of the measurements, each once."""
    yield from _null_row_notes(group)
    yield from _measurement_notes(group)
    yield from _ema_notes(group)
    if len(group) == 1:
        yield _times(group[0])
    elif any(result.seconds.get("sampling") is not None for result in group):
        yield f"{SECONDS}: time of sampling; {BEST} best of a column."
    else:
        yield f"{BEST} best of a column."
    interrupted = [result for result in group if result.seconds.get("sampling", 0.0) is None]
    if interrupted:
        part = "" if len(interrupted) == len(group) else f" of {_identify(interrupted, group)}"
        yield f"Sampling{part} was interrupted, so its seconds are unknown."


def class_notes(result: Result) -> Iterator[str]:
    """Yield the notes on a table by class."""
    values = [value for row in result.measurement["rows"] for value in row["classes"].values()]
    nulls = [value["null"] for value in values if value["null"] is not None]
    if values:
        real = f"; in parentheses: {REAL} of the class in their place" if nulls else ""
        yield f"n: samples of the class{real}."
    if any(null["matched"] is not None for null in nulls):
        yield f"If there are fewer real images or a smaller reference, {MATCHED} values are in evaluation.json."


def _measurement_notes(group: Sequence[Result]) -> Iterator[str]:
    """Yield skipped metrics and notes; those that do not apply to all results name the results."""
    results_by_skipped: dict[tuple[str, str], list[Result]] = {}
    results_by_note: dict[str, list[Result]] = {}
    for result in group:
        for skipped in result.measurement["skipped"].items():
            results_by_skipped.setdefault(skipped, []).append(result)
        for note in result.measurement["notes"]:
            results_by_note.setdefault(note, []).append(result)
    for (name, reason), results in results_by_skipped.items():
        part = "" if len(results) == len(group) else f" for {_identify(results, group)}"
        yield f"Skipped{part}: {name}, because {reason}."
    for note, results in results_by_note.items():
        yield note if len(results) == len(group) else f"{_identify(results, group)}: {note}"


def _ema_notes(group: Sequence[Result]) -> Iterator[str]:
    """Yield why the requested averaged weights were not used."""
    without = [result for result in group if result.samples.get("ema_missing")]
    if without:
        holds = "holds" if len({result.name for result in without}) == 1 else "hold"
        yield f"EMA off: {_names(without)} {holds} no EMA weights, so the raw weights were used."


def _names(results: Sequence[Result]) -> str:
    return ", ".join(dict.fromkeys(on_one_line(result.name) for result in results))


def _identify(results: Sequence[Result], group: Sequence[Result]) -> str:
    """Return the names of results, with their settings if others of the group have the same names."""
    names = {result.name for result in results}
    if sum(result.name in names for result in group) == len(results):
        return _names(results)
    return ", ".join(dict.fromkeys(_with_settings(result) for result in results))


def _with_settings(result: Result) -> str:
    settings = [
        f"{describe_key(key)} {describe_setting(value)}" for key, value in result.varying.items() if key not in NAMES
    ]
    return on_one_line(result.name) + (f" ({', '.join(settings)})" if settings else "")


def _null_row_notes(group: Sequence[Result]) -> Iterator[str]:
    """Yield the sources of the real images in place of samples, with the metrics that each applies to."""
    sources: dict[tuple[str, bool], list[str]] = {}
    rows: dict[str, Mapping[str, Any]] = {}
    for result in group:
        for row in result.measurement["rows"]:
            rows.setdefault(row["metric"], row)
    for row in rows.values():
        null = row["null"]
        if null is not None:
            against = f" against {null['reference_n']:,}" if null["reference_n"] else ""  # Inception Score has none
            source = f"{null['source']} ({null['n']:,}{against})"
            sources.setdefault((source, null["matched"] is not None), []).append(row["metric"])
    for (source, matched), metrics in sources.items():
        metric_names = f" for {', '.join(metrics)}" if len(sources) > 1 else ""
        compare = ""
        if matched:
            compare = f"; compare {MATCHED}" if len(group) == 1 else f"; {MATCHED} values are in evaluation.json"
        yield f"{REAL}{metric_names}: {source}{compare}."
    if len(group) == 1 and any(matched for _, matched in sources):
        yield f"{MATCHED}: samples with the same numbers of images as the real ones."


def _times(result: Result) -> str:
    known = {name: seconds for name, seconds in result.seconds.items() if seconds is not None}
    return f"Seconds: {', '.join(f'{name} {seconds:.3g}' for name, seconds in known.items())}."
