"""Tables, curves and grids of the comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import print_progress
from benchmarks.quality.judge import Point
from benchmarks.quality.program import PROGRAMS
from benchmarks.report import write_table
from diffusion_lab.image_grids import image_grid

SHOWN = 64
Found = Mapping[str, Sequence[Point]]


def rows(found: Found) -> list[str]:
    """A line for each set and program: what came out at the end."""
    lines = []
    for name, points in found.items():
        for program, last in _last(points).items():
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
    numbers = f"{row.null.n} of {row.null.reference_n}"
    matched = "" if row.null.matched is None else f"; samples: {row.null.matched.value:.4g}"
    return f"{row.null.estimate.value:.4g} ({numbers}{matched})"


def _last(points: Sequence[Point]) -> dict[str, Point]:
    """The last snapshot of each program."""
    ordered = sorted(points, key=lambda point: (PROGRAMS.index(point.program), point.seconds))
    return {program: list(group)[-1] for program, group in groupby(ordered, key=lambda point: point.program)}


def plot(found: Found, path: Path) -> None:
    """Kernel distance against seconds of training, one picture a set."""
    import matplotlib

    matplotlib.use("Agg")  # no display needed
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(found), figsize=(5 * len(found), 4.2), layout="constrained", squeeze=False)
    for place, (name, points) in zip(axes[0], found.items(), strict=True):
        for program, marker in zip(PROGRAMS, "osD", strict=True):
            line = sorted((point for point in points if point.program == program), key=lambda point: point.seconds)
            if line:
                values = [point.measurement["kid"].estimate.value for point in line]
                place.plot([point.seconds for point in line], values, marker=marker, label=program)
        below = any(point.measurement["kid"].estimate.value <= 0 for point in points)  # unbiased: may be below zero
        place.set_yscale(**({"value": "symlog", "linthresh": 1e-3} if below else {"value": "log"}))
        place.set_title(name)
        place.set_xlabel("seconds of training on this machine")
        place.set_ylabel(f"{points[0].measurement['kid'].name} (lower is better)")
        place.grid(alpha=0.3)
    axes[0][0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def write_report(found: Found, about: Mapping[str, Any], out: Path, page: Path | None = None) -> None:
    """Print the rows; write plot and grids into ``out``, or beside a page whose tables are replaced."""
    lines = rows(found)
    print("\n".join(lines))
    pictures = out if page is None else page.parent / "images" / "quality"
    plot(found, pictures / "curves.png")
    for name, points in found.items():
        for program, last in _last(points).items():
            image_grid(torch.from_numpy(last.pixels[:SHOWN])).save(pictures / f"{name}-{program}.png")
    if page is not None:
        write_table(page, "quality", lines)
        write_table(page, "machine", [f"| {about['system']} | {about['torch']} | {about['instructions']} |"])
    print_progress(f"plots and grids in {pictures}")
