"""Measurements as they are stored: plain containers, read back as rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from diffusion_lab.evaluation.nearest import Pair
from diffusion_lab.evaluation.table_rows import Row

INFINITY = "infinity"
"""Suffix in the name of a distance for its limit with infinitely many samples."""


@dataclass(frozen=True)
class StoredMeasurement:
    """Measurement with its computation times.

    Attributes:
        measurement: Result of ``Measurement.to_json``.
        seconds: Times of computing the features of the samples, and the metrics.
    """

    measurement: Mapping[str, Any]
    seconds: Mapping[str, float]

    @property
    def pairs(self) -> list[Pair]:
        """Samples and their nearest training images, nearest first; none if memorization was not measured."""
        memorization = self.measurement.get("memorization") or {}
        return [Pair(pair["sample"], pair["train"], pair["distance"]) for pair in memorization.get("pairs", ())]

    def to_json(self) -> dict[str, Any]:
        """Return plain containers."""
        return {"measurement": dict(self.measurement), "seconds": dict(self.seconds)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read the result of ``to_json``."""
        return cls(content["measurement"], content["seconds"])


def rows_of(measurement: Mapping[str, Any]) -> list[Row]:
    """Return the rows of a measurement, with a row for the limit of the Fréchet distance after the distance."""
    rows = []
    for row in measurement["rows"]:
        rows.append(_row(row, row["metric"], row["name"], "estimate"))
        if row["limit"] is not None:
            short, _, features = row["name"].partition("_")
            name = "_".join(filter(None, (short, INFINITY, features)))
            rows.append(_row(row, f"{row['metric']}_{INFINITY}", name, "limit"))
    return rows


def _row(row: Mapping[str, Any], metric: str, name: str, field: Literal["estimate", "limit"]) -> Row:
    """Return a table row for the estimate or the limit in a stored row."""
    estimate, null = row[field], row["null"]
    real = None if null is None else null[field]
    matched = null.get("matched") if null is not None and field == "estimate" else None
    return Row(
        key=metric,
        name=name,
        value=estimate["value"],
        low=estimate["low"],
        high=estimate["high"],
        null=None if real is None else real["value"],
        null_n=None if null is None or real is None else null["n"],
        matched=None if matched is None else matched["value"],
        better=row["better"] if estimate.get("reliable", True) else None,
    )
