"""Curves: each metric against the setting that varies, with intervals, and real images as a dashed line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusion_lab.console.terminal import on_one_line
from diffusion_lab.evaluation.result import Result
from diffusion_lab.evaluation.table import columns_of, describe_sampling, heading
from diffusion_lab.evaluation.table_rows import Row
from diffusion_lab.files.writing import atomic_write

MOST_COLUMNS = 3
PANEL = (4.2, 3.1)
"""Width and height of the plot of one metric, in inches."""

DPI = 110
WIDEST_RATIO = 8
"""Largest over smallest value of the horizontal axis from which it is logarithmic."""

HIGH = 0.92
"""Share of the height of a panel up to which a line has room for its label above it."""

MOST_NAMED = 12
"""Curves up to which a legend names them; colours repeat with more."""

CHECKPOINT, SAMPLES = "generation.checkpoint", "evaluation.samples"


def plot_curves(results: Sequence[Result], path: Path) -> None:
    """Write a PNG with a panel for each metric.

    Args:
        results: At least two that can be compared.
        path: The file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # no pyplot: neither a display nor a global state is touched

    axis = horizontal_axis(results)
    columns = columns_of(results)
    wide = min(MOST_COLUMNS, len(columns))
    high = -(-len(columns) // wide)
    figure = Figure(figsize=(PANEL[0] * wide, PANEL[1] * high + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{heading(results[0])}\n{describe_sampling(results)}", fontsize=10)
    curves = _curves(results, axis)
    for place, column in enumerate(columns):
        panel = figure.add_subplot(high, wide, place + 1)
        _draw(panel, column, curves, axis)
        if place == 0 and 1 < len(curves) <= MOST_NAMED:
            panel.legend(fontsize=7, title_fontsize=7)
    with atomic_write(path, durable=False) as partial:
        figure.savefig(partial, format="png", dpi=DPI)


def horizontal_axis(results: Sequence[Result]) -> str:
    """Return the dotted key that has the most values; of several the one that varies fastest."""
    keys = list(dict.fromkeys(key for result in results for key in result.varying))
    if not keys:
        return CHECKPOINT
    return max(reversed(keys), key=lambda key: (_is_number(results, key), len(_values(results, key))))


def _is_number(results: Sequence[Result], key: str) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in _values(results, key))


def _values(results: Sequence[Result], key: str) -> list[Any]:
    found: list[Any] = []
    for result in results:
        value = result.varying.get(key, result.name if key == CHECKPOINT else None)
        if value not in found:
            found.append(value)
    return found


def _curves(results: Sequence[Result], axis: str) -> dict[str, list[tuple[Any, Result]]]:
    """The results of each curve, with their places on the axis, by what is the same along it."""
    several = any(result.name != results[0].name for result in results)
    curves: dict[str, list[tuple[Any, Result]]] = {}
    for result in results:
        rest = [
            f"{_short(key)} {str(value).lower() if isinstance(value, bool) else value}"
            for key, value in result.varying.items()
            if key not in (axis, CHECKPOINT)
        ]
        name = ", ".join(([on_one_line(result.name)] if several and axis != CHECKPOINT else []) + rest)
        at = result.name if axis == CHECKPOINT else result.varying.get(axis)
        curves.setdefault(name, []).append((at, result))
    return curves


def _draw(panel: Any, column: Row, curves: dict[str, list[tuple[Any, Result]]], axis: str) -> None:
    places = {at for curve in curves.values() for at, _ in curve}
    numeric = all(isinstance(at, int | float) and not isinstance(at, bool) for at in places)
    rows_drawn: list[list[Row]] = []
    for name, curve in curves.items():
        points = sorted(curve, key=lambda point: point[0]) if numeric else curve
        rows = [_row(result, column.key) for _, result in points]
        kept = [(at, row) for (at, _), row in zip(points, rows, strict=True) if row is not None]
        at = [place if numeric else str(place) for place, _ in kept]
        values = [row.value for _, row in kept]
        rows_drawn.append([row for _, row in kept])
        below = [max(row.value - row.low, 0) if row.low is not None else 0 for _, row in kept]
        above = [max(row.high - row.value, 0) if row.high is not None else 0 for _, row in kept]
        panel.errorbar(at, values, (below, above), marker="o", markersize=4, capsize=3, linewidth=1.2, label=name)
    if column.null is not None:
        panel.axhline(column.null, color="0.4", linestyle="--", linewidth=1)
    panel.set_title(f"{column.name} {_direction(column)}", fontsize=9)
    panel.set_xlabel(_short(axis), fontsize=8)
    panel.tick_params(labelsize=7)
    panel.grid(alpha=0.3, linewidth=0.5)
    panel.margins(y=0.12)
    lows = [row.low if row.low is not None else row.value for each in rows_drawn for row in each]
    if min([*lows, column.null or 0.0]) >= 0:
        panel.set_ylim(bottom=0)
    _name_real_images(panel, column)
    if numeric and min(places) > 0 and max(places) >= WIDEST_RATIO * min(places):
        panel.set_xscale("log")
        panel.set_xticks(sorted(places), [f"{at:g}" for at in sorted(places)])
        panel.minorticks_off()
    elif numeric and len(places) <= 10:
        panel.set_xticks(sorted(places), [f"{at:g}" for at in sorted(places)])


def _name_real_images(panel: Any, column: Row) -> None:
    """Label the line of the real images, with room above it: else the label would be written across the title."""
    if column.null is None:
        return
    bottom, top = panel.get_ylim()
    panel.set_ylim(top=max(top, bottom + (column.null - bottom) / HIGH))
    panel.annotate(
        f"real images ({column.null_n})" if column.null_n else "real images",
        (1, column.null),
        xycoords=("axes fraction", "data"),
        xytext=(-3, 3),
        textcoords="offset points",
        ha="right",
        fontsize=7,
        color="0.4",
    )


def _row(result: Result, key: str) -> Row | None:
    return next((row for row in result.rows if row.key == key), None)


def _short(key: str) -> str:
    if key in (CHECKPOINT, SAMPLES):
        return "checkpoint" if key == CHECKPOINT else "images"
    return key.removeprefix("generation.sampling.").replace("compute.", "")


def _direction(column: Row) -> str:
    return {"lower": "(lower is better)", "higher": "(higher is better)", None: ""}[column.better]
