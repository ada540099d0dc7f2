"""Plots of each metric against the setting that varies, with intervals, and real images as a dashed line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusion_lab.console.terminal import on_one_line
from diffusion_lab.evaluation.result import Result
from diffusion_lab.evaluation.table import describe_sampling, heading, metric_columns
from diffusion_lab.evaluation.table_rows import Row
from diffusion_lab.files.writing import atomic_write

MAX_COLUMNS = 3
PANEL = (4.2, 3.1)
"""Width and height of the plot of one metric, in inches."""

DPI = 110
LOG_RATIO = 8
"""Minimum ratio of the largest to the smallest value for a logarithmic horizontal axis."""

MAX_LINE_HEIGHT = 0.92
"""Maximum height of the dashed line, as a fraction of the panel, that leaves room for its label."""

MAX_LEGEND = 12
"""Maximum number of curves for a legend; with more, colours repeat."""

CHECKPOINT, SAMPLES = "generation.checkpoint", "evaluation.samples"


def plot_curves(results: Sequence[Result], path: Path) -> None:
    """Write a PNG with a panel for each metric.

    Args:
        results: At least two comparable results.
        path: Path of the file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # not pyplot, which uses a display and global state

    axis = horizontal_axis(results)
    columns = metric_columns(results)
    num_columns = min(MAX_COLUMNS, len(columns))
    num_rows = -(-len(columns) // num_columns)
    figure = Figure(figsize=(PANEL[0] * num_columns, PANEL[1] * num_rows + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{heading(results[0])}\n{describe_sampling(results)}", fontsize=10)
    curves = _curves(results, axis)
    for index, column in enumerate(columns):
        panel = figure.add_subplot(num_rows, num_columns, index + 1)
        _draw(panel, column, curves, axis)
        if index == 0 and 1 < len(curves) <= MAX_LEGEND:
            panel.legend(fontsize=7, title_fontsize=7)
    with atomic_write(path, durable=False) as partial:
        figure.savefig(partial, format="png", dpi=DPI)


def horizontal_axis(results: Sequence[Result]) -> str:
    """Return the dotted key that has the most values, numbers preferred; of several the one that varies fastest."""
    keys = list(dict.fromkeys(key for result in results for key in result.varying))
    if not keys:
        return CHECKPOINT
    return max(reversed(keys), key=lambda key: (_is_number(results, key), len(_values(results, key))))


def _is_number(results: Sequence[Result], key: str) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in _values(results, key))


def _values(results: Sequence[Result], key: str) -> list[Any]:
    values: list[Any] = []
    for result in results:
        value = result.varying.get(key, result.name if key == CHECKPOINT else None)
        if value not in values:
            values.append(value)
    return values


def _curves(results: Sequence[Result], axis: str) -> dict[str, list[tuple[Any, Result]]]:
    """Return the results of each curve with their positions on the axis, by the settings that the curve shares."""
    several = any(result.name != results[0].name for result in results)
    curves: dict[str, list[tuple[Any, Result]]] = {}
    for result in results:
        rest = [
            f"{_short(key)} {str(value).lower() if isinstance(value, bool) else value}"
            for key, value in result.varying.items()
            if key not in (axis, CHECKPOINT)
        ]
        name = ", ".join(([on_one_line(result.name)] if several and axis != CHECKPOINT else []) + rest)
        x = result.name if axis == CHECKPOINT else result.varying.get(axis)
        curves.setdefault(name, []).append((x, result))
    return curves


def _draw(panel: Any, column: Row, curves: dict[str, list[tuple[Any, Result]]], axis: str) -> None:
    all_x = {x for curve in curves.values() for x, _ in curve}
    numeric = all(isinstance(x, int | float) and not isinstance(x, bool) for x in all_x)
    rows_drawn: list[list[Row]] = []
    for name, curve in curves.items():
        points = sorted(curve, key=lambda point: point[0]) if numeric else curve
        rows = [_row(result, column.key) for _, result in points]
        drawn = [(x, row) for (x, _), row in zip(points, rows, strict=True) if row is not None]
        positions = [x if numeric else str(x) for x, _ in drawn]
        values = [row.value for _, row in drawn]
        rows_drawn.append([row for _, row in drawn])
        below = [max(row.value - row.low, 0) if row.low is not None else 0 for _, row in drawn]
        above = [max(row.high - row.value, 0) if row.high is not None else 0 for _, row in drawn]
        panel.errorbar(
            positions, values, (below, above), marker="o", markersize=4, capsize=3, linewidth=1.2, label=name
        )
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
    _label_real_images(panel, column)
    if numeric and min(all_x) > 0 and max(all_x) >= LOG_RATIO * min(all_x):
        panel.set_xscale("log")
        panel.set_xticks(sorted(all_x), [f"{x:g}" for x in sorted(all_x)])
        panel.minorticks_off()
    elif numeric and len(all_x) <= 10:
        panel.set_xticks(sorted(all_x), [f"{x:g}" for x in sorted(all_x)])


def _label_real_images(panel: Any, column: Row) -> None:
    """Label the line of the real images, with room above it, so that the label does not overlap the title."""
    if column.null is None:
        return
    bottom, top = panel.get_ylim()
    panel.set_ylim(top=max(top, bottom + (column.null - bottom) / MAX_LINE_HEIGHT))
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
