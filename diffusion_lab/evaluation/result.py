"""What one evaluation came to: the numbers, with all that gives them their meaning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from diffusion_lab.evaluation.stored_measurement import rows_of
from diffusion_lab.evaluation.table_rows import Row, format_number

FORMAT = 1
"""Of ``evaluation.json`` and of stored measurements."""


@dataclass(frozen=True, repr=False)
class Result:
    """The measurement of one set of images.

    Attributes:
        name: What the set is called.
        varying: Settings in which it differs from others of the same command, by dotted key.
        samples: Where the images come from: folder, checkpoint, sampler, steps, guidance, seed, averages.
        conditions: What must be equal for two results to be compared: numbers of images, features, split, fingerprints.
        seconds: Time of sampling, of computing features and of measuring; None where it is not
            known. Nothing is sampled of images that are there.
        measurement: What ``diffusion_lab.evaluation.measure`` found, as plain containers.
        pictures: Files that belong to it, by what they show.
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
        """The numbers with their intervals and null rows."""
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
        """Return plain containers that JSON can hold."""
        return asdict(self)


def comparable_groups(results: Sequence[Result]) -> list[list[Result]]:
    """Divide results so that those of a group have equal conditions, in the order in which they come."""
    groups: list[list[Result]] = []
    for result in results:
        alike = next((group for group in groups if group[0].conditions == result.conditions), None)
        if alike is None:
            groups.append([result])
        else:
            alike.append(result)
    return groups


def apart(groups: Sequence[Sequence[Result]]) -> list[str]:
    """For each group, in words, the conditions in which it differs from the others.

    Fingerprints are given where nothing else shows the difference.
    """
    conditions = [group[0].conditions for group in groups]
    varying = [key for key in conditions[0] if any(other.get(key) != conditions[0][key] for other in conditions)]
    plain = [key for key in varying if not key.endswith("_fingerprint") and key != "held_out_images"]
    if "reference_fingerprint" in varying:
        plain.append("reference_fingerprint")
    return [", ".join(_told(key, each.get(key)) for key in plain or varying) for each in conditions]


def _told(key: str, value: object) -> str:
    if value is None:
        return f"{key.replace('_', ' ')} none"
    text = str(value)
    return f"{key.replace('_', ' ')} {text[:8] + '…' if key.endswith('_fingerprint') else text}"
