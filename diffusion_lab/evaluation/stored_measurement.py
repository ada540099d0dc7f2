"""Measurements as they are kept: plain containers, read back as rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from diffusion_lab.evaluation.nearest import Pair
from diffusion_lab.evaluation.table_rows import Row

INFINITY = "infinity"
"""What is added to the name of a distance for its limit with infinitely many samples."""


@dataclass(frozen=True)
class StoredMeasurement:
    """A measurement, and how long it took.

    Attributes:
        measurement: As of ``Measurement.to_json``.
        seconds: Time of computing the features of the samples, and of measuring.
    """

    measurement: Mapping[str, Any]
    seconds: Mapping[str, float]

    @property
    def pairs(self) -> list[Pair]:
        """Samples and the training images nearest to them, nearest first; none where that was not measured."""
        found = self.measurement.get("memorization") or {}
        return [Pair(pair["sample"], pair["train"], pair["distance"]) for pair in found.get("pairs", ())]

    def to_json(self) -> dict[str, Any]:
        """Return plain containers."""
        return {"measurement": dict(self.measurement), "seconds": dict(self.seconds)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read what ``to_json`` gave."""
        return cls(content["measurement"], content["seconds"])


def rows_of(measurement: Mapping[str, Any]) -> list[Row]:
    """Return the rows of a measurement, the limit of the Fréchet distance after the distance itself."""
    rows = []
    for told in measurement["rows"]:
        null = told["null"]
        rows.append(_row(told, told["metric"], told["name"], told["estimate"], null, "estimate"))
        if told["limit"] is not None:
            limit = told["limit"]
            short, _, features = told["name"].partition("_")
            name = "_".join(filter(None, (short, INFINITY, features)))
            rows.append(_row(told, f"{told['metric']}_{INFINITY}", name, limit, null, "limit"))
    return rows


def _row(
    told: Mapping[str, Any],
    metric: str,
    name: str,
    estimate: Mapping[str, Any],
    null: Mapping[str, Any] | None,
    of_null: str,
) -> Row:
    real = None if null is None else null[of_null]
    matched = null.get("matched") if null is not None and of_null == "estimate" else None
    return Row(
        key=metric,
        name=name,
        value=estimate["value"],
        low=estimate["low"],
        high=estimate["high"],
        null=None if real is None else real["value"],
        null_n=None if null is None or real is None else null["n"],
        matched=None if matched is None else matched["value"],
        better=told["better"] if estimate.get("reliable", True) else None,
    )
