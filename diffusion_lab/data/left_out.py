"""What lies in a folder of images and is not trained on, and how it is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from diffusion_lab.safe_files import NotRegularFileError
from diffusion_lab.terminal import on_one_line

NAMED_FILES = 10
"""Files that a message names before it only counts."""


class DataWarning(UserWarning):
    """Something about the images that their owner should know; training goes on."""


class Reason(StrEnum):
    """Why a picture is left out; the value is its name in the summary of a run."""

    DAMAGED = "damaged"
    TOO_LARGE = "too_large"


class LeftOutPicture(NamedTuple):
    """A picture that is not trained on."""

    file: Path
    reason: Reason
    why: str

    def __str__(self) -> str:
        return on_one_line(f"{self.file}: {self.why}")


class PictureTooLargeError(ValueError):
    """A picture needs more memory than the limit allows, so it was not decoded."""


def left_out_picture(file: Path, error: Exception) -> LeftOutPicture:
    """Turn what was raised for a file into words."""
    if isinstance(error, PictureTooLargeError):
        return LeftOutPicture(file, Reason.TOO_LARGE, str(error))
    if isinstance(error, NotRegularFileError):
        return LeftOutPicture(file, Reason.DAMAGED, "not a regular file, but a pipe, a device or a socket")
    return LeftOutPicture(file, Reason.DAMAGED, f"{type(error).__name__}: {error}")


def listed(lines: Sequence[object], most: int = NAMED_FILES) -> str:
    """One line each, indented; beyond ``most`` they are only counted."""
    shown = [f"  {line}" for line in lines[:most]]
    if len(lines) > most:
        shown.append(f"  and {len(lines) - most} more")
    return "\n".join(shown)


@dataclass
class OtherFiles:
    """The files of a folder that are no pictures, counted by suffix, and the folders that cannot be read.

    Attributes:
        counts: Files of each suffix, in small letters; "" for none.
        examples: The name of one file of each suffix.
        unreadable: Names of folders without permission to read them.
    """

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)

    def add(self, name: str, suffix: str) -> None:
        self.counts[suffix] += 1
        self.examples.setdefault(suffix, name)

    def join(self, others: Iterable[OtherFiles]) -> OtherFiles:
        """These and others together, in an object of its own."""
        joined = OtherFiles(Counter(self.counts), dict(self.examples), list(self.unreadable))
        for other in others:
            joined.counts.update(other.counts)
            joined.examples = other.examples | joined.examples
            joined.unreadable += other.unreadable
        return joined

    def kinds(self, how_to_read: Callable[[str], str | None], most: int = 8) -> Iterator[str]:
        """Count, suffix and an example of each kind, the most frequent first.

        Args:
            how_to_read: What has to be installed for files of a suffix, None where nothing is known to help.
            most: Kinds that are named; the rest is counted.
        """
        for suffix, count in self.counts.most_common(most):
            help_ = how_to_read(suffix)
            more = f", readable after: {help_}" if help_ else ""
            yield on_one_line(f"{count} × {suffix or 'no suffix'} ({self.examples[suffix]}{more})")
        if len(self.counts) > most:
            yield f"{len(self.counts) - most} more kinds"
