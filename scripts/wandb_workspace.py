"""Write a workspace to W&B that shows runs as the report does: ``python scripts/wandb_workspace.py``.

Its panels are those of the metrics that runs log by default, and of any evaluation. With folders of runs, also those of
other metrics that these runs log, and the settings in which they differ.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from diffusion_lab.config.schema import LoggerSettings
from diffusion_lab.console.messages import explain, sentence
from diffusion_lab.metric_names import LOGGED_METRICS, THROUGHPUT
from diffusion_lab.reports.charts import QUALITY_NAMES, charts_for
from diffusion_lab.reports.discovery import find_runs
from diffusion_lab.reports.records import RunRecord
from diffusion_lab.reports.run_reader import read_run
from diffusion_lab.reports.settings import short_names, varied_keys
from diffusion_lab.runtime.exit_codes import EXIT_CODE
from diffusion_lab.tracking.axes import IMAGES, STEP
from diffusion_lab.tracking.evaluations import NEAREST, TABLE
from diffusion_lab.tracking.generations import GENERATED
from diffusion_lab.tracking.wandb_server import check_account

PACKAGE = "wandb-workspaces"
MEDIA = {
    "samples": "Samples: a row for each class",
    "samples_by_class": "Samples of each class",
    "denoising": "From noise to image",
    "estimates": "From noise to image: what the network believes",
    GENERATED: "Images of sample.py",
    NEAREST: "Nearest training images",
}
RESULTS = {
    "best_value": "Best value",
    "images_per_second": "Images per second",
    "train_seconds": "Seconds of training",
    "parameters": "Parameters",
    "peak_memory_mb": "Peak memory in MB",
}
"""Results of a run that are no metrics of a step."""

ALWAYS_VARIED = ("training.optimizer.learning_rate", "data.loading.batch_size", "training.epochs")
"""Settings on the parallel coordinates if no runs say what was varied."""

MOST_VARIED = 8


@dataclass(frozen=True)
class Panel:
    """A panel: what it shows, its title, and the keys of its data.

    Attributes:
        pattern: Regular expression of further keys of lines.
    """

    kind: Literal["lines", "media", "bar", "table", "coordinates", "settings"]
    title: str
    keys: tuple[str, ...] = ()
    pattern: str | None = None

    def __str__(self) -> str:
        return f"{self.title} ({', '.join([*self.keys, *filter(None, [self.pattern])]) or 'all settings'})"


@dataclass(frozen=True)
class Section:
    """A section of the workspace."""

    name: str
    panels: list[Panel] = field(default_factory=list)


def layout(runs: Sequence[RunRecord] = ()) -> list[Section]:
    """Return the sections of the workspace.

    Args:
        runs: Runs that show which further metrics are logged, and which settings vary.
    """
    names = dict.fromkeys([*LOGGED_METRICS, THROUGHPUT, *(name for run in runs for name in run.curves)])
    charts = [chart for chart in charts_for(names) if chart.kind != "quality"]
    training = [Panel("lines", chart.title, tuple(chart.lines)) for chart in charts]
    return [
        Section("Training", training),
        Section("Image quality, next to real images", list(_quality())),
        Section("Samples", [Panel("media", title, (key,)) for key, title in MEDIA.items()]),
        Section("Results", list(_results(runs))),
    ]


def _quality() -> Iterator[Panel]:
    """Yield a panel for each quality, with any features and with the values of real images."""
    for value, title in QUALITY_NAMES.items():
        if value != "memorization_nearer":  # in the panel of memorization: the pattern matches both
            yield Panel("lines", title, pattern=f"^(val|null)/{value}(_.*)?$")


def _results(runs: Sequence[RunRecord]) -> Iterator[Panel]:
    yield from (Panel("bar", title, (key,)) for key, title in RESULTS.items())
    varied = varied_keys(runs)[:MOST_VARIED] if len(runs) > 1 else []
    yield Panel("coordinates", "What was varied", tuple(varied or ALWAYS_VARIED))
    yield Panel("table", "Results of evaluate.py", (TABLE,))
    yield Panel("settings", "Settings that differ")


def workspace(sections: Iterable[Section], entity: str, project: str, name: str) -> Any:
    """Return the workspace as an object of wandb-workspaces, which is not saved yet."""
    ws: Any = import_module("wandb_workspaces.workspaces")
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[
            ws.Section(name=section.name, panels=[_panel(panel) for panel in section.panels], is_open=True)
            for section in sections
        ],
        settings=ws.WorkspaceSettings(x_axis=IMAGES),
    )


def _panel(panel: Panel) -> Any:
    wr: Any = import_module("wandb_workspaces.reports.v2")
    match panel.kind:
        case "lines":
            return wr.LinePlot(title=panel.title, x=None, y=list(panel.keys), metric_regex=panel.pattern)
        case "media":
            return wr.MediaBrowser(title=panel.title, media_keys=list(panel.keys), num_columns=3)
        case "bar":
            return wr.BarPlot(title=panel.title, metrics=list(panel.keys))
        case "table":
            return wr.WeavePanelSummaryTable(table_name=panel.keys[0])
        case "coordinates":
            columns = [
                wr.ParallelCoordinatesPlotColumn(metric=wr.Config(key), display_name=title)
                for key, title in short_names(panel.keys).items()
            ]
            best = wr.ParallelCoordinatesPlotColumn(metric=wr.SummaryMetric("best_value"), display_name="best value")
            return wr.ParallelCoordinatesPlot(title=panel.title, columns=[*columns, best])
        case "settings":
            return wr.RunComparer(diff_only="split")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (default: that of this process) and return the exit code."""
    args = _parser().parse_args(arguments)
    try:
        folders = find_runs(args.runs) if args.runs else []
        sections = layout([read_run(folder, folder.name) for folder in folders])
        if args.print:
            _print(sections)
            return 0
        print(f"workspace: {_save(sections, args.entity, args.project, args.name)}")
    except (ValueError, OSError) as error:
        print(f"Error: {sentence(explain(error))}", file=sys.stderr)
        return EXIT_CODE
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Write a workspace to W&B that shows runs as the report does.")
    parser.add_argument(
        "runs", nargs="*", type=Path, metavar="FOLDER", help="runs whose further metrics and varied settings are shown"
    )
    project, entity = os.environ.get("WANDB_PROJECT"), os.environ.get("WANDB_ENTITY")
    default = LoggerSettings().project
    parser.add_argument("--project", default=project or default, help=f"W&B project; default: {default}")
    parser.add_argument("--entity", default=entity, help="W&B user or team; default: that of the account")
    parser.add_argument("--name", default="diffusion_lab", help="name of the workspace")
    parser.add_argument("--print", action="store_true", help="print the layout; needs no package and no account")
    return parser


def _print(sections: Iterable[Section]) -> None:
    print(f"axes: {IMAGES}, {STEP}")
    for section in sections:
        print(section.name)
        for panel in section.panels:
            print(f"  {panel}")


def _save(sections: Iterable[Section], entity: str | None, project: str, name: str) -> str:
    """Save the workspace on W&B, and return its address.

    Raises:
        ValueError: The package or a login is missing, or W&B refuses.
    """
    try:
        import_module("wandb_workspaces.workspaces")
    except ImportError as error:
        raise ValueError(
            f"the package {PACKAGE} is missing: pip install {PACKAGE}, or show the layout with --print"
        ) from error
    check_account("writing a workspace", "show the layout with --print")
    import wandb

    try:
        saved = workspace(sections, entity or str(wandb.Api().default_entity), project, name).save()
    except Exception as error:  # of the network, of W&B, or of its library
        raise ValueError(f"W&B does not save the workspace: {error}") from error
    return str(saved.url)


if __name__ == "__main__":
    raise SystemExit(main())
