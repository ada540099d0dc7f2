"""What stands below a table: which real images are meant, what was left out, and how long it took."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from diffusion_lab.evaluation.result import Result
from diffusion_lab.evaluation.table_rows import describe_key, describe_setting
from diffusion_lab.terminal import on_one_line

REAL, MATCHED, SECONDS = "real images", "matched", "seconds"
"""Names of a row and of columns."""

NAMES = ("generation.checkpoint", "evaluation.samples")
"""Keys whose values are the names of results."""

BEST = "*"
"""Marks the best of a column."""


def remarks_on(group: Sequence[Result]) -> Iterator[str]:
    """What the columns mean, what was left out, and remarks on the measurements, each once."""
    yield from _about_null_rows(group)
    yield from _about_measurements(group)
    yield from _about_averages(group)
    if len(group) == 1:
        yield _times(group[0])
    elif any(result.seconds.get("sampling") is not None for result in group):
        yield f"{SECONDS}: time of sampling; {BEST} the best of a column."
    else:
        yield f"{BEST} the best of a column."
    interrupted = [result for result in group if result.seconds.get("sampling", 0.0) is None]
    if interrupted:
        where = "" if len(interrupted) == len(group) else f" of {_which(interrupted, group)}"
        yield f"Sampling{where} was interrupted, so its seconds are unknown."


def remarks_on_classes(result: Result) -> Iterator[str]:
    """What stands below the numbers of the classes."""
    told = [of_class for row in result.measurement["rows"] for of_class in row["classes"].values()]
    nulls = [of_class["null"] for of_class in told if of_class["null"] is not None]
    if told:
        real = f"; in parentheses: {REAL} of the class in their place" if nulls else ""
        yield f"n: samples of the class{real}."
    if any(null["matched"] is not None for null in nulls):
        yield f"Where these are not as many, or against fewer, {MATCHED} figures are in evaluation.json."


def _about_measurements(group: Sequence[Result]) -> Iterator[str]:
    """What was left out, and the notes; what is not true of all results names those that it is true of."""
    left_out: dict[tuple[str, str], list[Result]] = {}
    noted: dict[str, list[Result]] = {}
    for result in group:
        for left in result.measurement["skipped"].items():
            left_out.setdefault(left, []).append(result)
        for note in result.measurement["notes"]:
            noted.setdefault(note, []).append(result)
    for (name, why), results in left_out.items():
        where = "" if len(results) == len(group) else f" of {_which(results, group)}"
        yield f"Left out{where}: {name}, since {why}."
    for note, results in noted.items():
        yield note if len(results) == len(group) else f"{_which(results, group)}: {note}"


def _about_averages(group: Sequence[Result]) -> Iterator[str]:
    """Why the averaged weights that were asked for were not used."""
    without = [result for result in group if result.samples.get("ema_missing")]
    if without:
        holds = "holds" if len({result.name for result in without}) == 1 else "hold"
        yield f"EMA off: {_names(without)} {holds} no EMA weights, so the raw weights were used."


def _names(results: Sequence[Result]) -> str:
    return ", ".join(dict.fromkeys(on_one_line(result.name) for result in results))


def _which(some: Sequence[Result], group: Sequence[Result]) -> str:
    """The names of some results, with their settings where others of the group have the same names."""
    names = {result.name for result in some}
    if sum(result.name in names for result in group) == len(some):
        return _names(some)
    return ", ".join(dict.fromkeys(_with_settings(result) for result in some))


def _with_settings(result: Result) -> str:
    settings = [
        f"{describe_key(key)} {describe_setting(value)}" for key, value in result.varying.items() if key not in NAMES
    ]
    return on_one_line(result.name) + (f" ({', '.join(settings)})" if settings else "")


def _about_null_rows(group: Sequence[Result]) -> Iterator[str]:
    """Which real images took the place of samples, and which metrics these are."""
    sources: dict[tuple[str, bool], list[str]] = {}
    rows: dict[str, Mapping[str, Any]] = {}
    for result in group:
        for told in result.measurement["rows"]:
            rows.setdefault(told["metric"], told)
    for told in rows.values():
        null = told["null"]
        if null is not None:
            against = f" against {null['reference_n']:,}" if null["reference_n"] else ""  # Inception Score has none
            text = f"{null['source']} ({null['n']:,}{against})"
            sources.setdefault((text, null["matched"] is not None), []).append(told["metric"])
    for (text, matched), metrics in sources.items():
        which = f" for {', '.join(metrics)}" if len(sources) > 1 else ""
        compare = ""
        if matched:
            compare = f"; compare {MATCHED}" if len(group) == 1 else f"; {MATCHED} figures are in evaluation.json"
        yield f"{REAL}{which}: {text}{compare}."
    if len(group) == 1 and any(matched for _, matched in sources):
        yield f"{MATCHED}: as many samples as there are real ones, against as many."


def _times(result: Result) -> str:
    told = {name: seconds for name, seconds in result.seconds.items() if seconds is not None}
    return f"Seconds: {', '.join(f'{name} {seconds:.3g}' for name, seconds in told.items())}."
