"""Tables of results: one set of images in full, or several in one table with one row each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from diffusion_lab.console.terminal import on_one_line, printable
from diffusion_lab.evaluation.result import Result, comparable_groups, describe_differences
from diffusion_lab.evaluation.table_notes import BEST, MATCHED, NAMES, REAL, SECONDS, class_notes, notes
from diffusion_lab.evaluation.table_rows import Row, describe_key, describe_setting, format_number

COLUMN_NAMES = {
    "fd": "fd",
    "fd_infinity": "fd∞",
    "kid": "kid",
    "is": "is",
    "precision": "prec.",
    "recall": "recall",
    "density": "density",
    "coverage": "cover.",
    "label_agreement": "labels",
    "memorization": "memor.",
}
"""Names of narrow columns, by the key of the metric; those of Inception features are in capitals."""

MAX_WIDTH = 10_000


def print_results(results: Sequence[Result], console: Console, classes: bool = False) -> None:
    """Print one table for each group of comparable results, in full for a single result.

    Args:
        results: The results.
        console: The console to print to.
        classes: Whether to add a table by class for each result with classes.
    """
    groups = comparable_groups(results)
    if len(groups) > 1:
        console.print(Text("Not in one ranking, because they were measured under different conditions:"))
    for group, differences in zip(groups, describe_differences(groups), strict=True):
        title = heading(group[0])
        if len(groups) > 1:
            title = f"{title}\n({differences})"
        console.print(Text(printable(title)))
        console.print(Text(describe_sampling(group), style="bold"))
        if len(group) == 1:
            full = full_table(group[0])
            fits = _width(full, console) <= console.width
            console.print(full if fits else full_table(group[0], short_names=True))
        else:
            for table in comparison_tables(group, console):
                console.print(table)
        for line in notes(group):
            console.print(Text(printable(line)))
        console.print()
        for result in group if classes else ():
            for table in class_tables(result, console):
                console.print(table)
            for line in class_notes(result):
                console.print(Text(line))


def heading(result: Result) -> str:
    """Return the numbers of images that were compared, and the features."""
    conditions = result.conditions
    return (
        f"{conditions['num_samples']:,} images against {conditions['reference_images']:,} {conditions['reference']}, "
        f"features {conditions['features']}"
    )


def full_table(result: Result, short_names: bool = False) -> Table:
    """Return a table of all values of a result with intervals and null rows; short names are without features."""
    rows = result.rows
    matched = any(row.matched is not None for row in rows)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("metric", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("95 % interval", justify="right", no_wrap=True)
    if matched:
        table.add_column(MATCHED, justify="right", no_wrap=True)
    table.add_column(REAL, justify="right", no_wrap=True)
    for row in rows:
        interval = f"{format_number(row.low)} – {format_number(row.high)}" if row.low is not None else ""
        cells = [row.key if short_names else row.name, format_number(row.value), interval]
        if matched:
            cells.append(format_number(row.matched))
        table.add_row(*cells, format_number(row.null))
    return table


def comparison_tables(results: Sequence[Result], console: Console) -> list[Table]:
    """Return comparable results as one table, or as several below each other if the console is too narrow."""
    columns = metric_columns(results)
    timed = any(result.seconds.get("sampling") is not None for result in results)
    return _split_to_fit(
        columns, lambda part: _comparison_table(results, part, timed and part[-1] is columns[-1]), console
    )


def metric_columns(results: Sequence[Result]) -> list[Row]:
    """Return a row of each metric of any result, which determines a column, in the order of ``COLUMN_NAMES``."""
    columns: dict[str, Row] = {}
    for result in results:
        for row in result.rows:
            columns.setdefault(row.key, row)
    return [columns[key] for key in COLUMN_NAMES if key in columns]


def class_tables(result: Result, console: Console) -> list[Table]:
    """Return tables of the values of each class; none if there are no classes."""
    rows = [row for row in result.measurement["rows"] if row["classes"]]
    if not rows:
        return []
    counts = {name: class_value["n"] for row in rows for name, class_value in row["classes"].items()}
    columns = [row for row in rows if row["metric"] in COLUMN_NAMES]

    def build_table(part: Sequence[Mapping[str, Any]]) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, title_justify="left")
        table.add_column(f"{on_one_line(result.name)}, by class", overflow="fold", min_width=len(REAL))
        table.add_column("n", justify="right", no_wrap=True)
        for row in part:
            table.add_column(COLUMN_NAMES[row["metric"]], justify="right", no_wrap=True)
        for name, count in counts.items():
            cells = [_class_cell(row["classes"].get(name)) for row in part]
            table.add_row(on_one_line(name), f"{count:,}", *cells)
        return table

    return _split_to_fit(columns, build_table, console)


def _class_cell(value: Mapping[str, Any] | None) -> str:
    """Return the value of a class, with that of real images of the class in parentheses."""
    if value is None:
        return ""
    null = value["null"]
    return format_number(value["value"]) + (f" ({format_number(null['value'])})" if null is not None else "")


def _split_to_fit(
    columns: Sequence[Any], build_table: Callable[[Sequence[Any]], Table], console: Console
) -> list[Table]:
    """Split the columns into as few tables as fit the console."""
    tables: list[Table] = []
    for count in range(1, len(columns) + 1):
        size = -(-len(columns) // count)
        tables = [build_table(columns[start : start + size]) for start in range(0, len(columns), size)]
        if all(_width(table, console) <= console.width for table in tables):
            break
    return tables


def _width(table: Table, console: Console) -> int:
    """Return the width that a table needs to show everything."""
    return Measurement.get(console, console.options.update(max_width=MAX_WIDTH), table).maximum


def _comparison_table(results: Sequence[Result], columns: Sequence[Row], timed: bool) -> Table:
    """Return a table with a row for each result and one for real images, the best of each column marked."""
    named = any(result.name != results[0].name for result in results)
    varying = list(dict.fromkeys(key for result in results for key in result.varying if key not in NAMES))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    if named:
        table.add_column("images", overflow="fold", min_width=len(REAL))
    for key in varying:
        table.add_column(describe_key(key), justify="right", no_wrap=True)
    for row in columns:
        table.add_column(column_name(row), justify="right", no_wrap=True)
    if timed:
        table.add_column(SECONDS, justify="right", no_wrap=True)
    cells = [{row.key: row for row in result.rows} for result in results]
    best = {row.key: _best(row, [each[row.key] for each in cells if row.key in each]) for row in columns}
    for result, values in zip(results, cells, strict=True):
        settings = [describe_setting(result.varying.get(key)) for key in varying]
        head = ([on_one_line(result.name)] if named else []) + settings
        seconds = [format_number(result.seconds.get("sampling"))] if timed else []
        table.add_row(*head, *(_cell(values.get(row.key), best[row.key]) for row in columns), *seconds)
    empty = [""] * (named + len(varying) - 1)
    table.add_section()
    table.add_row(REAL, *empty, *(Text(f"{format_number(row.null)} ", style="dim") for row in columns))
    return table


def column_name(row: Row) -> str:
    """Return the short name of a metric; FID, KID and IS are reserved for Inception features."""
    name = COLUMN_NAMES[row.key]
    return {"fd": "FID", "fd∞": "FID∞", "kid": "KID", "is": "IS"}.get(name, name) if is_inception(row) else name


def is_inception(row: Row) -> bool:
    """Return whether a row has one of the names that are reserved for metrics on Inception features."""
    return row.name in INCEPTION_NAMES


INCEPTION_NAMES = ("fid", "fid_infinity", "kid", "is")


def results_text(results: Sequence[Result], width: int = 120) -> str:
    """Return the tables as plain text."""
    console = Console(width=width, record=True, file=StringIO(), color_system=None)
    print_results(results, console, classes=True)
    return console.export_text()


def describe_sampling(group: Sequence[Result]) -> str:
    """Return the name of the images and their sampling settings, as far as they are common to all results."""
    settings = [{"": on_one_line(result.name), **sampling_settings(result)} for result in group]
    common = {key: value for key, value in settings[0].items() if all(each.get(key) == value for each in settings)}
    return printable(", ".join(f"{key} {describe_setting(value)}".strip() for key, value in common.items()))


def sampling_settings(result: Result) -> Mapping[str, Any]:
    """Return the main sampling settings of the images, by short names; empty if they are unknown."""
    samples = result.samples
    if samples.get("sampler") is None:
        return {}
    return {
        "sampler": samples["sampler"],
        "steps": samples.get("steps"),
        "guidance": samples.get("guidance_scale"),
        "EMA": samples.get("ema_decay") if samples.get("use_ema") else "off",
        "seed": samples.get("sampling_seed", samples.get("seed")),
    }


def _best(column: Row, rows: Sequence[Row]) -> float | None:
    if column.better is None or len(rows) < 2:
        return None
    values = [row.value for row in rows]
    if len(set(values)) == 1:
        return None
    return min(values) if column.better == "lower" else max(values)


def _cell(row: Row | None, best: float | None) -> Text:
    if row is None:
        return Text("")
    marked = best is not None and row.value == best
    return Text(format_number(row.value) + (BEST if marked else " "), style="bold" if marked else "")
