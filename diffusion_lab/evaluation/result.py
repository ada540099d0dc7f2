"""Result of an evaluation: the values, with the conditions under which they are comparable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from diffusion_lab.evaluation.stored_measurement import rows_of
from diffusion_lab.evaluation.table_rows import Row, format_number

FORMAT = 1
"""Format version of ``evaluation.json``."""


@dataclass(frozen=True, repr=False)
class Result:
    """Evaluation of one set of images.

    Attributes:
        name: Name of the set in tables.
        varying: Settings in which it differs from other results of the same command, by dotted key.
        samples: Origin of the images: folder, checkpoint, sampler, steps, guidance, seed, averages.
        conditions: Conditions that must be equal in comparable results: numbers of images, features, split,
            fingerprints.
        seconds: Times of sampling, of computing features and of computing metrics; None if unknown. Existing images
            have no time of sampling.
        measurement: Result of ``diffusion_lab.evaluation.measure``, as plain containers.
        pictures: Paths of image files of this result, by their contents.
    """

    name: str
    varying: Mapping[str, Any]
    samples: Mapping[str, Any]
    conditions: Mapping[str, Any]
    seconds: Mapping[str, float | None]
    measurement: Mapping[str, Any]
    pictures: Mapping[str, str]

    @property
    def rows(self) -> list[Row]:
        """Values with their intervals and null rows."""
        return rows_of(self.measurement)

    def __getitem__(self, name: str) -> Row:
        """Return the row of a metric by its full or its short name: ``result["kid"]``.

        Raises:
            KeyError: There is no such row.
        """
        for row in self.rows:
            if name in (row.key, row.name):
                return row
        skipped = self.measurement["skipped"]
        raise KeyError(f"no metric {name!r}: {skipped.get(name, [row.name for row in self.rows])}")

    def __repr__(self) -> str:
        numbers = ", ".join(f"{row.name}={format_number(row.value)}" for row in self.rows)
        return f"<Result of {self.name!r}: {numbers}>"

    def to_json(self) -> dict[str, Any]:
        """Return plain containers that JSON supports."""
        return asdict(self)


def comparable_groups(results: Sequence[Result]) -> list[list[Result]]:
    """Group results with equal conditions, in their order."""
    groups: list[list[Result]] = []
    for result in results:
        comparable = next((group for group in groups if group[0].conditions == result.conditions), None)
        if comparable is None:
            groups.append([result])
        else:
            comparable.append(result)
    return groups


def describe_differences(groups: Sequence[Sequence[Result]]) -> list[str]:
    """Return for each group a description of the conditions in which it differs from the others.

    Fingerprints are included only if nothing else shows the difference.
    """
    conditions = [group[0].conditions for group in groups]
    varying = [key for key in conditions[0] if any(other.get(key) != conditions[0][key] for other in conditions)]
    plain = [key for key in varying if not key.endswith("_fingerprint") and key != "held_out_images"]
    if "reference_fingerprint" in varying:
        plain.append("reference_fingerprint")
    return [", ".join(_describe_condition(key, each.get(key)) for key in plain or varying) for each in conditions]


def _describe_condition(key: str, value: object) -> str:
    if value is None:
        return f"{key.replace('_', ' ')} none"
    text = str(value)
    return f"{key.replace('_', ' ')} {text[:8] + '…' if key.endswith('_fingerprint') else text}"
