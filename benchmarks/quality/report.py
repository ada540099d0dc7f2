"""Tables, curves and image grids of the comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import print_progress
from benchmarks.quality.evaluator import Point
from benchmarks.quality.program import PROGRAMS
from benchmarks.report import write_table
from diffusion_lab.image_grids import image_grid

GRID_IMAGES = 64
Results = Mapping[str, Sequence[Point]]
"""Points by the name of the dataset."""


def rows(results: Results) -> list[str]:
    """Return one line per dataset and program, for its last snapshot."""
    lines = []
    for name, points in results.items():
        for program, last in _last_snapshots(points).items():
            kid, fd = last.measurement["kid"], last.measurement["fd"]
            limit = f"{fd.limit.value:.4g}" if fd.limit is not None and fd.limit.reliable else ""
            lines.append(
                f"| {name} | {program} | {last.parameters / 1e6:.2f} M | {last.seconds:.0f} s | {kid.name} "
                f"| {kid.estimate.value:.4g} ({kid.estimate.low:.4g} to {kid.estimate.high:.4g}) "
                f"| {_null(kid)} | {fd.estimate.value:.4g} | {limit} | {_null(fd)} |"
            )
    return lines


def _null(row: Any) -> str:
    if row.null is None:
        return ""
    counts = f"{row.null.n} of {row.null.reference_n}"
    matched = "" if row.null.matched is None else f"; samples: {row.null.matched.value:.4g}"
    return f"{row.null.estimate.value:.4g} ({counts}{matched})"


def _last_snapshots(points: Sequence[Point]) -> dict[str, Point]:
    """Return the last snapshot of each program."""
    ordered = sorted(points, key=lambda point: (PROGRAMS.index(point.program), point.seconds))
    return {program: list(group)[-1] for program, group in groupby(ordered, key=lambda point: point.program)}


def plot(results: Results, path: Path) -> None:
    """Plot kernel distance against training time, one panel per dataset."""
    import matplotlib

    matplotlib.use("Agg")  # no display needed
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(results), figsize=(5 * len(results), 4.2), layout="constrained", squeeze=False)
    for axes, (name, points) in zip(panels[0], results.items(), strict=True):
        for program, marker in zip(PROGRAMS, "osD", strict=True):
            line = sorted((point for point in points if point.program == program), key=lambda point: point.seconds)
            if line:
                values = [point.measurement["kid"].estimate.value for point in line]
                axes.plot([point.seconds for point in line], values, marker=marker, label=program)
        # the estimate is unbiased, so it can be negative
        nonpositive = any(point.measurement["kid"].estimate.value <= 0 for point in points)
        axes.set_yscale(**({"value": "symlog", "linthresh": 1e-3} if nonpositive else {"value": "log"}))
        axes.set_title(name)
        axes.set_xlabel("seconds of training on this machine")
        axes.set_ylabel(f"{points[0].measurement['kid'].name} (lower is better)")
        axes.grid(alpha=0.3)
    panels[0][0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def write_report(results: Results, about: Mapping[str, Any], out: Path, page: Path | None = None) -> None:
    """Print the rows; save plot and grids in ``out``, or next to a page whose tables are replaced."""
    lines = rows(results)
    print("\n".join(lines))
    image_folder = out if page is None else page.parent / "images" / "quality"
    plot(results, image_folder / "curves.png")
    for name, points in results.items():
        for program, last in _last_snapshots(points).items():
            image_grid(torch.from_numpy(last.pixels[:GRID_IMAGES])).save(image_folder / f"{name}-{program}.png")
    if page is not None:
        write_table(page, "quality", lines)
        write_table(page, "machine", [f"| {about['system']} | {about['torch']} | {about['instructions']} |"])
    print_progress(f"plots and grids in {image_folder}")
