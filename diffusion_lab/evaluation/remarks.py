"""What stands below a table: which real images are meant, what was left out, and how long it took."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from diffusion_lab.evaluation.result import Result
from diffusion_lab.terminal import on_one_line

REAL, MATCHED, SECONDS = "real images", "matched", "seconds"
"""Names of a row and of columns."""

BEST = "*"
"""Marks the best of a column."""


def remarks_on(group: Sequence[Result]) -> Iterator[str]:
    """What the columns mean, what was left out, and remarks on the measurements, each once."""
    found: dict[str, None] = {}
    for result in group:
        measurement = result.measurement
        found |= dict.fromkeys(f"Left out: {name}, since {why}." for name, why in measurement["skipped"].items())
        found |= dict.fromkeys(measurement["notes"])
    yield from _about_null_rows(group)
    yield from found
    yield from _about_averages(group)
    if len(group) == 1:
        yield _times(group[0])
    elif any(result.seconds.get("sampling") is not None for result in group):
        yield f"{SECONDS}: time of sampling; {BEST} the best of a column."
    else:
        yield f"{BEST} the best of a column."
    interrupted = [result for result in group if result.seconds.get("sampling", 0.0) is None]
    if interrupted:
        where = "" if len(interrupted) == len(group) else f" of {_names(interrupted)}"
        yield f"Sampling{where} was interrupted, so its seconds are unknown."


def _about_averages(group: Sequence[Result]) -> Iterator[str]:
    """Why the averaged weights that were asked for were not used."""
    without = [result for result in group if result.samples.get("ema_missing")]
    if without:
        holds = "holds" if len({result.name for result in without}) == 1 else "hold"
        yield f"EMA off: {_names(without)} {holds} no EMA weights, so the raw weights were used."


def _names(results: Sequence[Result]) -> str:
    return ", ".join(dict.fromkeys(on_one_line(result.name) for result in results))


def _about_null_rows(group: Sequence[Result]) -> Iterator[str]:
    """Which real images took the place of samples, and which metrics these are."""
    sources: dict[tuple[str, bool], list[str]] = {}
    for told in group[0].measurement["rows"]:
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
