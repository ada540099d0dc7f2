"""Files of the results: all numbers as JSON, the tables as text, and plots of curves."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from diffusion_lab.evaluation.plot import plot_curves
from diffusion_lab.evaluation.result import FORMAT, Result, comparable_groups
from diffusion_lab.evaluation.table import results_text
from diffusion_lab.files.writing import atomic_write, name_folder_in_errors
from diffusion_lab.runtime.environment import environment

RESULTS, TABLE, CURVES = "evaluation.json", "evaluation.txt", "curves.png"
PLOT_NAME = re.compile(r"curves(_[1-9]\d*)?\.png")
"""Names of plots: of the only group, or numbered for several groups."""
KEY = "output.base_dir"


def write_results(results: Sequence[Result], folder: Path) -> list[Path]:
    """Write the results, replacing those of an earlier command.

    Results that are not comparable are in separate groups; each group of several results has a plot.

    Returns:
        The paths of the files.
    """
    groups = comparable_groups(results)
    with name_folder_in_errors(folder, KEY):
        folder.mkdir(parents=True, exist_ok=True)
    _remove_curves(folder)
    content = {
        "format": FORMAT,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment(),
        "groups": [[results.index(result) for result in group] for group in groups],
        "results": [result.to_json() for result in results],
    }
    files = [folder / RESULTS, folder / TABLE]
    with atomic_write(files[0]) as partial:
        partial.write_text(json.dumps(_finite(content), indent=2, default=str, allow_nan=False) + "\n", "utf-8")
    with atomic_write(files[1], durable=False) as partial:
        partial.write_text(results_text(results), "utf-8")
    several = [group for group in groups if len(group) > 1]
    for number, group in enumerate(several, 1):
        file = folder / (CURVES if len(several) == 1 else f"{Path(CURVES).stem}_{number}.png")
        plot_curves(group, file)
        files.append(file)
    if len(results) == 1:
        files += [Path(picture) for picture in results[0].pictures.values()]
    return files


def _remove_curves(folder: Path) -> None:
    """Remove the plots of an earlier command, which may be more than there are now; other files are kept."""
    if not (folder / RESULTS).exists():
        return
    for stale in [file for file in folder.iterdir() if PLOT_NAME.fullmatch(file.name)]:
        stale.unlink(missing_ok=True)


def _finite(value: Any) -> Any:
    """Return the same containers with None in place of NaN and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
