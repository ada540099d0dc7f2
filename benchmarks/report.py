"""Results of all benchmarks as one table, one plot, and the table of docs/performance.md.

    python -m benchmarks.report [outputs/bench/results.json]

writes the tables of `make bench`, or of the benchmarks run by `python -m benchmarks NAME`, into that page;
outputs/gpu/results.json, of `make gpu-check`, into its own part.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import Row

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "outputs" / "bench" / "results.json"
PAGE = ROOT / "docs" / "performance.md"
SETTINGS = "11"
"""Goal of the rows of ``benchmarks.flags``, which have a separate part of the page."""
HEADINGS = ("goal", "measured", "ours", "peer", "ratio", "wanted", "of the limit", "", "note")


def cells(row: Row) -> tuple[str, ...]:
    """Return the cells of a row under ``HEADINGS``."""
    wanted = "" if row.bound is None else f"{'≥' if row.at_least else '≤'} {row.bound:g}"
    return (
        row.goal,
        row.what,
        _figure(row.ours, row.unit),
        _figure(row.peer, row.unit),
        "" if row.ratio is None else f"{row.ratio:.2f}" if row.ratio >= 0.1 else f"{row.ratio:.2g}",
        wanted,
        "" if row.share is None else f"{row.share:.0%}",
        row.verdict,
        row.note,
    )


def _figure(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:.3g} {unit}".strip() if value < 1000 else f"{value:,.0f} {unit}".strip()


def table(rows: Sequence[Row]) -> str:
    """Return all rows in columns for a terminal."""
    lines = [HEADINGS, *map(cells, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def markdown(rows: Sequence[Row]) -> str:
    """Return all rows as a Markdown table."""
    lines = [HEADINGS, ("---",) * len(HEADINGS), *map(cells, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plot(rows: Sequence[Row], path: Path) -> None:
    """Plot each row as a multiple of its goal, right of 1 if it is reached."""
    import matplotlib

    matplotlib.use("Agg")  # no display needed
    from matplotlib import pyplot as plt

    shown = [(row, row.ratio, row.bound) for row in rows if row.ratio and row.bound]
    shares = [ratio / bound if row.at_least else bound / ratio for row, ratio, bound in shown]
    figure, axes = plt.subplots(figsize=(9, 1 + 0.35 * len(shown)), layout="constrained")
    colours = ["tab:blue" if row.reached else "tab:orange" for row, _, _ in shown]
    axes.barh(range(len(shown)), shares, color=colours)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(range(len(shown)), labels=[f"{row.goal}  {row.what}" for row, _, _ in shown])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xticks(ticks := (0.5, 1, 2, 5, 10), labels=[f"{tick:g}" for tick in ticks])
    axes.set_xlabel("reached, as a multiple of the goal")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def between(text: str, marker: str, content: str) -> str:
    """Replace the text between ``<!-- marker -->`` and ``<!-- /marker -->``."""
    pattern = rf"(<!-- {marker} -->\n).*?(<!-- /{marker} -->)"
    replaced, count = re.subn(pattern, lambda match: f"{match[1]}{content}\n{match[2]}", text, flags=re.DOTALL)
    if not count:
        raise ValueError(f"the page has no markers <!-- {marker} --> and <!-- /{marker} -->")
    return replaced


def write_table(page: Path, marker: str, rows: Sequence[str]) -> None:
    """Replace the rows of the table that follows ``<!-- marker -->`` in a page; ValueError if there is none."""
    text = page.read_text(encoding="utf-8")
    pattern = rf"(<!-- {marker} -->\n\|.*\n\|---.*\n)(?:\|.*\n)*"
    text, count = re.subn(pattern, lambda match: match[1] + "".join(f"{row}\n" for row in rows), text)
    if not count:
        raise ValueError(f"{page.name} has no table after <!-- {marker} -->")
    page.write_text(text, encoding="utf-8")


def describe(results: dict[str, object]) -> str:
    """Return the description of the machine and the table."""
    about, rows = results["machine"], results["rows"]
    assert isinstance(about, dict)
    assert isinstance(rows, list)
    limit = ", ".join(f"{value:.0f} GFLOP/s in {name}" for name, value in about["limit_gflops"].items())
    machine = f"{about['system']}, torch {about['torch']}, {about['threads']} threads, {about['instructions']}"
    return f"{machine}; a matrix product runs at {limit}.\n\n{markdown([Row(**row) for row in rows])}"


def describe_gpu(results: dict[str, Any]) -> str:
    """Return the results of `make gpu-check`: the machine, its tests, and the table."""
    about, tests, rows = results["machine"], results["tests"], [Row(**row) for row in results["rows"]]
    outcomes = Counter(test["outcome"] for test in tests)
    counts = ", ".join(f"{outcomes[name]} {name}" for name in sorted(outcomes))
    machine = f"{about['gpu'] or 'no GPU'}, torch {about['torch']}, CUDA {about['cuda']}, Python {about['python']}"
    lines = [f"{machine}; {counts} in {results['seconds']} s, benchmark included."]
    failed = [test for test in tests if test["outcome"] not in ("passed", "skipped")]
    lines += [f"\n- {test['outcome']}: `{test['name']}`: {test.get('message', '')}" for test in failed]
    recorded = [(test["name"], what, value) for test in tests for what, value in test.get("recorded", {}).items()]
    if recorded:
        lines += ["\n| test | measured | |\n| --- | --- | --- |"]
        lines += [f"| `{name}` | {what} | {float(value):.2g} |" for name, what, value in recorded]
    return "\n".join([*lines, "", markdown(rows)] if rows else lines)


def parts(results: dict[str, Any]) -> dict[str, str]:
    """Return the contents of the measured parts of the page by their markers."""
    if "tests" in results:
        return {"gpu": describe_gpu(results)}
    of_settings = [row for row in results["rows"] if row["goal"] == SETTINGS]
    others = [row for row in results["rows"] if row["goal"] != SETTINGS]
    listed = {"results": others, "flags": of_settings}
    return {marker: describe({**results, "rows": rows}) for marker, rows in listed.items() if rows}


def main(file: Path = RESULTS) -> None:
    """Write the results of `make bench` or `make gpu-check` into the page."""
    results = json.loads(file.read_text(encoding="utf-8"))
    page = PAGE.read_text(encoding="utf-8")
    for marker, content in parts(results).items():
        page = between(page, marker, content)
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
