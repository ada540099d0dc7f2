"""Results as tables: one set of images in full, or several in one table, a row each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from diffusion_lab.evaluation.result import Result, apart, comparable_groups
from diffusion_lab.evaluation.table_notes import BEST, MATCHED, NAMES, REAL, SECONDS, remarks_on, remarks_on_classes
from diffusion_lab.evaluation.table_rows import Row, describe_key, describe_setting, format_number
from diffusion_lab.terminal import on_one_line, printable

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
"""What a narrow column is called, by the key of its metric; those of Inception's features are in capitals."""

WIDEST = 10_000


def print_results(results: Sequence[Result], console: Console, classes: bool = False) -> None:
    """Print one table for each group of results that can be compared, in full where there is one result alone.

    Args:
        results: The results.
        console: Where they are printed.
        classes: Whether a table by class follows for each result, where there are classes.
    """
    groups = comparable_groups(results)
    if len(groups) > 1:
        console.print(Text("Not in one ranking, since they were measured in different ways:"))
    for group, why in zip(groups, apart(groups), strict=True):
        title = heading(group[0])
        if len(groups) > 1:
            title = f"{title}\n({why})"
        console.print(Text(printable(title)))
        console.print(Text(describe_sampling(group), style="bold"))
        if len(group) == 1:
            whole = full_table(group[0])
            fits = _width(whole, console) <= console.width
            console.print(whole if fits else full_table(group[0], short_names=True))
        else:
            for table in tables_of(group, console):
                console.print(table)
        for line in remarks_on(group):
            console.print(Text(printable(line)))
        console.print()
        for result in group if classes else ():
            for table in class_tables(result, console):
                console.print(table)
            for line in remarks_on_classes(result):
                console.print(Text(line))


def heading(result: Result) -> str:
    """How many images were compared with which, by which features."""
    conditions = result.conditions
    return (
        f"{conditions['num_samples']:,} images against {conditions['reference_images']:,} {conditions['reference']}, "
        f"features {conditions['features']}"
    )


def full_table(result: Result, short_names: bool = False) -> Table:
    """All numbers of a result, a row each, with intervals and null rows; names without features are shorter."""
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


def tables_of(results: Sequence[Result], console: Console) -> list[Table]:
    """Results that can be compared as one table, or as several below each other where the console is too narrow."""
    columns = columns_of(results)
    timed = any(result.seconds.get("sampling") is not None for result in results)
    return _fitting(columns, lambda part: _table_of(results, part, timed and part[-1] is columns[-1]), console)


def columns_of(results: Sequence[Result]) -> list[Row]:
    """Return a row of each metric that any of the results has, which names its column, in the order of these names."""
    found: dict[str, Row] = {}
    for result in results:
        for row in result.rows:
            found.setdefault(row.key, row)
    return [found[key] for key in COLUMN_NAMES if key in found]


def class_tables(result: Result, console: Console) -> list[Table]:
    """The numbers of each class; none where there are no classes."""
    told = [row for row in result.measurement["rows"] if row["classes"]]
    if not told:
        return []
    counts = {name: of_class["n"] for row in told for name, of_class in row["classes"].items()}
    columns = [row for row in told if row["metric"] in COLUMN_NAMES]

    def table_of(part: Sequence[Mapping[str, Any]]) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, title_justify="left")
        table.add_column(f"{on_one_line(result.name)}, by class", overflow="fold", min_width=len(REAL))
        table.add_column("n", justify="right", no_wrap=True)
        for row in part:
            table.add_column(COLUMN_NAMES[row["metric"]], justify="right", no_wrap=True)
        for name, count in counts.items():
            cells = [_class_cell(row["classes"].get(name)) for row in part]
            table.add_row(on_one_line(name), f"{count:,}", *cells)
        return table

    return _fitting(columns, table_of, console)


def _class_cell(told: Mapping[str, Any] | None) -> str:
    """A number of a class, and that of real images of the class in parentheses."""
    if told is None:
        return ""
    null = told["null"]
    return format_number(told["value"]) + (f" ({format_number(null['value'])})" if null is not None else "")


def _fitting(columns: Sequence[Any], table_of: Callable[[Sequence[Any]], Table], console: Console) -> list[Table]:
    """As few tables as have room, each with a part of the columns."""
    tables: list[Table] = []
    for count in range(1, len(columns) + 1):
        size = -(-len(columns) // count)
        tables = [table_of(columns[start : start + size]) for start in range(0, len(columns), size)]
        if all(_width(table, console) <= console.width for table in tables):
            break
    return tables


def _width(table: Table, console: Console) -> int:
    """Columns of text that a table needs to show everything."""
    return Measurement.get(console, console.options.update(max_width=WIDEST), table).maximum


def _table_of(results: Sequence[Result], columns: Sequence[Row], timed: bool) -> Table:
    """A row for each result, the best of each column marked, real images below them; the time of sampling last."""
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
    """Return a short name of a metric: FID, KID and IS are those of Inception's features alone."""
    name = COLUMN_NAMES[row.key]
    return {"fd": "FID", "fd∞": "FID∞", "kid": "KID", "is": "IS"}.get(name, name) if is_inception(row) else name


def is_inception(row: Row) -> bool:
    """Whether a row has one of the names that only metrics on Inception's features have."""
    return row.name.partition("_")[0] in ("fid", "kid", "is") and "@" not in row.name and row.name in INCEPTIONS


INCEPTIONS = ("fid", "fid_infinity", "kid", "is")


def results_text(results: Sequence[Result], width: int = 120) -> str:
    """The tables as plain text."""
    console = Console(width=width, record=True, file=StringIO(), color_system=None)
    print_results(results, console, classes=True)
    return console.export_text()


def describe_sampling(group: Sequence[Result]) -> str:
    """Return the name of the images and how they were sampled, as far as that is the same for all of them."""
    told = [{"": on_one_line(result.name), **sampling_of(result)} for result in group]
    same = {key: value for key, value in told[0].items() if all(each.get(key) == value for each in told)}
    return printable(", ".join(f"{key} {describe_setting(value)}".strip() for key, value in same.items()))


def sampling_of(result: Result) -> Mapping[str, Any]:
    """How the images were sampled, in a few words; empty where that is not known."""
    about = result.samples
    if about.get("sampler") is None:
        return {}
    return {
        "sampler": about["sampler"],
        "steps": about.get("steps"),
        "guidance": about.get("guidance_scale"),
        "EMA": about.get("ema_decay") if about.get("use_ema") else "off",
        "seed": about.get("sampling_seed", about.get("seed")),
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
