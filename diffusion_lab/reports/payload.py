"""Content of the page as plain data, which the script in the page draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffusion_lab.reports import facts
from diffusion_lab.reports.charts import Chart, charts_for, quality_title
from diffusion_lab.reports.comparison import Ranking, null_values, rankings
from diffusion_lab.reports.curves import non_finite_steps, significant, thinned
from diffusion_lab.reports.images import ImageStore
from diffusion_lab.reports.labels import labels_of
from diffusion_lab.reports.records import Curve, Interval, Picture, QualityRow, RunRecord, number
from diffusion_lab.reports.settings import differs_from_default, short_names, varied_keys
from diffusion_lab.version import __version__

MOST_POINTS = 240_000
"""Points of all curves together, so that the page opens quickly."""

POINTS_OF_A_CURVE = (60, 600)
MOST_PICTURES = 2000
"""Sample grids of all runs together; of longer series, evenly spaced epochs are shown."""

PICTURES_OF_A_RUN = (6, 200)
MAX_NEAREST = 12
MAX_CLASSES = 100
"""Classes whose quality is shown, the worst ones."""

TIME_POINTS = 80
LONGEST_VALUE = 300


@dataclass(frozen=True)
class ReportSource:
    """What a report is made of.

    Attributes:
        title: Title of the page.
        runs: The runs.
        notes: Sentences about what could not be read, beside those of the runs.
        folder: Folder that contains the runs.
        watch: Seconds after which the page reads itself again; None if it stays as it is.
    """

    title: str
    runs: Sequence[RunRecord]
    notes: Sequence[str] = ()
    folder: str = ""
    watch: float | None = None


def payload(source: ReportSource, defaults: Mapping[str, Any], images: ImageStore) -> dict[str, Any]:
    """Return the content of the page, in values of JSON; images are given by their numbers in ``images``."""
    runs = source.runs
    for run in runs:
        facts.add_throughput(run)
    charts = charts_for(name for run in runs for name in run.curves)
    drawn = [name for chart in charts for name in chart.lines]
    lines = sum(name in run.curves for run in runs for name in drawn)
    low, high = POINTS_OF_A_CURVE
    points = min(max(MOST_POINTS // max(lines, 1), low), high)
    pictures = _Pictures(runs, images)
    varied = varied_keys(runs) if len(runs) > 1 else []
    shared = _shared_settings(runs, varied)
    return {
        "title": source.title,
        "folder": source.folder,
        "written": facts.now(),
        "version": __version__,
        "watch": source.watch,
        "notes": list(source.notes),
        "charts": [_chart(chart) for chart in charts],
        "thinned": any(len(run.curves[name]) > points for run in runs for name in drawn if name in run.curves),
        "varied": [{"key": key, "name": name} for key, name in short_names(varied).items()],
        "shared": {key: shown(value) for key, value in shared.items()},
        "defaults": {key: shown(defaults[key]) for key in defaults if any(key in run.settings for run in runs)},
        "differs": differs_from_default(shared, defaults),
        "metric": _common_metric(runs),
        "rankings": [_ranking(ranking) for ranking in rankings(runs)],
        "runs": [
            {"label": label, **_run(run, shared, defaults, drawn, points, pictures)}
            for run, label in zip(runs, labels_of(runs, varied), strict=True)
        ],
    }


class _Pictures:
    """The pictures of all runs, stored together."""

    def __init__(self, runs: Sequence[RunRecord], images: ImageStore) -> None:
        few, many = PICTURES_OF_A_RUN
        most = min(max(MOST_PICTURES // max(len(runs), 1), few), many)
        self.images = images
        self.epochs = {run.name: spread(run.pictures, most) for run in runs}
        files = [picture.file for run in runs for picture in self.all_of(run)]
        self.numbers = images.add_all(files)

    def all_of(self, run: RunRecord) -> list[Picture]:
        return [*self.epochs[run.name], *run.nearest[:MAX_NEAREST], *run.sampled]

    def shown(self, pictures: Sequence[Picture]) -> list[dict[str, Any]]:
        """Return the pictures that can be shown."""
        result = []
        for picture in pictures:
            number = self.numbers[picture.file]
            if isinstance(number, int):
                image = self.images.images[number]
                entry = {"image": number, "w": image.width, "h": image.height, "caption": picture.caption}
                result.append(entry if picture.epoch is None else {**entry, "epoch": picture.epoch})
        return result

    def notes(self, run: RunRecord) -> list[str]:
        """Return sentences about the pictures that cannot be shown, and about those left out."""
        bad = [(p.file.name, why) for p in self.all_of(run) if isinstance(why := self.numbers[p.file], str)]
        notes = [f"{name} cannot be shown: {why}" for name, why in bad[:3]]
        notes += [f"{len(bad) - 3} further images cannot be shown"] if len(bad) > 3 else []
        left_out = len(run.pictures) - len(self.epochs[run.name])
        return [*notes, *([f"of {len(run.pictures)} epochs with samples, {left_out} are left out"] if left_out else [])]


def spread(pictures: Sequence[Picture], most: int) -> list[Picture]:
    """Return at most ``most`` pictures, evenly spaced, with the first and the last."""
    if len(pictures) <= most:
        return list(pictures)
    indices = dict.fromkeys(round(index * (len(pictures) - 1) / (most - 1)) for index in range(most))
    return [pictures[index] for index in indices]


def shown(value: Any) -> str:
    """Return a setting as text, as it is written in a settings file.

    >>> shown(None), shown([1, 2]), shown(1e-4), shown(True)
    ('null', '[1, 2]', '0.0001', 'true')
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if isinstance(value, list | tuple):
        text = "[" + ", ".join(map(shown, value)) + "]"
    elif isinstance(value, dict):
        text = "{" + ", ".join(f"{key}: {shown(entry)}" for key, entry in value.items()) + "}"
    else:
        text = str(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"


def _shared_settings(runs: Sequence[RunRecord], varied: Sequence[str]) -> dict[str, Any]:
    known = [run.settings for run in runs if run.settings]
    if not known:
        return {}
    first, *others = known
    differing = set(varied)
    return {
        key: value
        for key, value in first.items()
        if key not in differing and all(key in other and other[key] == value for other in others)
    }


def _run(
    run: RunRecord,
    shared: Mapping[str, Any],
    defaults: Mapping[str, Any],
    drawn: Sequence[str],
    points: int,
    pictures: _Pictures,
) -> dict[str, Any]:
    own = {key: value for key, value in run.settings.items() if key not in shared}
    return {
        "name": run.name,
        "folder": str(run.folder),
        "state": run.state,
        "why": run.why,
        "headline": facts.headline(run),
        "overrides": list(run.job.overrides) if run.job else [],
        "facts": {key: significant(value, 7) for key, value in facts.facts_of(run).items()},
        "device": facts.device_of(run),
        "best": _best(run),
        "settings": {key: shown(value) for key, value in own.items()},
        "numbers": {key: value for key, value in own.items() if number(value) is not None},
        "differs": differs_from_default(own, defaults),
        "batch": facts.images_per_step(run),
        "steps_per_epoch": facts.steps_per_epoch(run),
        "time": _times(run),
        "curves": {name: _curve(run.curves[name], points) for name in drawn if name in run.curves},
        "nulls": {name: significant(value) for name, value in null_values(run).items()},
        "nan": non_finite_steps(run.curves)[:3],
        "pictures": pictures.shown(pictures.epochs[run.name]),
        "nearest": pictures.shown(run.nearest[:MAX_NEAREST]),
        "sampled": pictures.shown(run.sampled),
        "sampled_from": run.sampled_from,
        "quality": [_quality(row) for row in run.quality],
        "environment": facts.environment_of(run),
        "commands": list(facts.commands_of(run)),
        "log": run.log,
        "notes": [*run.notes, *pictures.notes(run)],
    }


def _best(run: RunRecord) -> dict[str, Any] | None:
    best = facts.best_value(run)
    if best is None:
        return None
    name, mode = facts.metric_of(run)
    return {"metric": name, "mode": mode, "value": significant(best[0]), "epoch": best[1]}


def _times(run: RunRecord) -> list[list[float]]:
    """Return steps and seconds, between which the page interpolates."""
    longest = max(run.curves.values(), key=len, default=Curve([], [], []))
    count = len(longest)
    indices = (
        range(count) if count <= TIME_POINTS else [i * (count - 1) // (TIME_POINTS - 1) for i in range(TIME_POINTS)]
    )
    return [[longest.steps[i] for i in indices], [round(longest.seconds[i], 2) for i in indices]]


def _curve(curve: Curve, points: int) -> list[list[Any]]:
    few = thinned(curve, points)
    return [few.steps, [significant(value) for value in few.values]]


def _chart(chart: Chart) -> dict[str, Any]:
    return {
        "kind": chart.kind,
        "title": chart.title,
        "lines": chart.lines,
        "better": chart.better,
        "unit": chart.unit,
    }


def _interval(interval: Interval | None) -> list[float | None] | None:
    if interval is None:
        return None
    return [significant(interval.value), significant(interval.low), significant(interval.high)]


def _quality(row: QualityRow) -> dict[str, Any]:
    title, features = quality_title(row.name)
    return {
        "title": " ".join([title, *([f"({features})"] if features else [])]),
        "better": row.better,
        "sampling": row.sampling,
        "n": row.n,
        "value": _interval(row.estimate),
        "null": _interval(row.null),
        "matched": _interval(row.matched),
        "classes": [
            {"name": each.name, "value": _interval(each.estimate), "null": _interval(each.null)}
            for each in row.classes[:MAX_CLASSES]
        ],
        "more_classes": max(len(row.classes) - MAX_CLASSES, 0),
    }


def _ranking(ranking: Ranking) -> dict[str, Any]:
    return {
        "title": ranking.title,
        "better": ranking.better,
        "source": ranking.source,
        "group": ranking.group,
        "tied": ranking.tied,
        "entries": [
            {"runs": list(entry.runs), "value": _interval(entry.value), "null": _interval(entry.null)}
            for entry in ranking.entries
        ],
    }


def _common_metric(runs: Sequence[RunRecord]) -> dict[str, str] | None:
    """Return the metric that all runs with a result have in common; None if they have different ones."""
    found = {facts.metric_of(run) for run in runs if facts.best_value(run) is not None}
    if len(found) != 1:
        return None
    name, mode = found.pop()
    return {"name": name, "mode": mode}
