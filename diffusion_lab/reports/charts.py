"""Which charts a report has, from the names of the logged metrics."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from diffusion_lab.metric_names import GRADIENT_NORM, NOISE_BANDS, THROUGHPUT, direction_of

GRADIENT_NORMS = (GRADIENT_NORM, "train/grad_norm", "grad_norm")
QUALITY = re.compile(r"val/(fd|fid|kid|is|precision|recall|density|coverage|label_agreement|memorization)(_|$)")
NOT_SHOWN = ("val/evaluation_seconds",)

QUALITY_NAMES = {
    "fd": "Fréchet distance",
    "fid": "FID",
    "kid": "Kernel distance",
    "is": "Inception Score",
    "precision": "Precision",
    "recall": "Recall",
    "density": "Density",
    "coverage": "Coverage",
    "label_agreement": "Label agreement",
    "memorization": "Memorization",
    "memorization_nearer": "Nearer to training images",
}
"""Titles of the metrics of the evaluation."""


@dataclass
class Chart:
    """A chart: its title, and the metrics that are drawn in it with their labels.

    Attributes:
        kind: ``loss``, ``bands``, ``rate``, ``norm``, ``throughput``, ``quality`` or ``other``.
        better: ``lower``, ``higher``, or None if neither is better.
        unit: Unit of the values; empty if they have none.
    """

    kind: str
    title: str
    lines: dict[str, str] = field(default_factory=dict)
    better: str | None = None
    unit: str = ""


def charts_for(names: Iterable[str]) -> list[Chart]:
    """Return the charts for metrics of these names, in the order of the page."""
    rest = dict.fromkeys(name for name in names if name not in NOT_SHOWN)

    def take(labels: dict[str, str]) -> dict[str, str]:
        return {name: label for name, label in labels.items() if rest.pop(name, name) is None}

    charts = [
        Chart("loss", "Loss", take(_losses()), "lower"),
        Chart("bands", "Validation loss by noise level", take(_bands("val/loss")), "lower"),
        Chart("bands", "Training loss by noise level", take(_bands("train/loss")), "lower"),
    ]
    take(_bands("val/loss_raw"))  # the weights without averaging: their total is in the first chart
    for name in [name for name in rest if QUALITY.match(name)]:
        title, features = quality_title(name)
        better = "higher" if direction_of(name) == "max" else "lower"
        charts.append(Chart("quality", title, take({name: features or title}), better))
    charts += [
        Chart("rate", "Learning rate", take({"train/learning_rate": "learning rate"})),
        Chart("norm", "Gradient norm", take(dict.fromkeys(GRADIENT_NORMS, "gradient norm"))),
        Chart("throughput", "Throughput", take({THROUGHPUT: "images per second"}), "higher", "images/s"),
        *(Chart("other", name, {name: name}) for name in rest),
    ]
    return [chart for chart in charts if chart.lines]


def quality_title(name: str) -> tuple[str, str]:
    """Return the title of a metric of the evaluation, and its features.

    >>> quality_title("val/kid_digits"), quality_title("label_agreement_digits@8")
    (('Kernel distance', 'digits'), ('Label agreement', 'digits@8'))
    """
    short = name.removeprefix("val/")
    known = [metric for metric in QUALITY_NAMES if short == metric or short.startswith(f"{metric}_")]
    if not known:
        return name, ""
    metric = max(known, key=len)
    return QUALITY_NAMES[metric], short.removeprefix(metric).removeprefix("_")


def _losses() -> dict[str, str]:
    return {
        "train/loss": "training",
        "val/loss": "validation",
        "val/loss_raw": "validation, weights without averaging",
    }


def _bands(name: str) -> dict[str, str]:
    return {f"{name}_at_{band}_noise": f"{band} noise" for band in NOISE_BANDS}
