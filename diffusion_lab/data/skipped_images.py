"""Files in an image folder that are not used, and how they are reported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from diffusion_lab.console.terminal import on_one_line
from diffusion_lab.files.reading import NotRegularFileError

NAMED_FILES = 10
"""Maximum number of files named in a message; further ones are only counted."""


class DataWarning(UserWarning):
    """Warning about the images; training continues."""


class Reason(StrEnum):
    """Reason why an image is skipped; the value is its name in the summary of a run."""

    DAMAGED = "damaged"
    TOO_LARGE = "too_large"


class SkippedImage(NamedTuple):
    """Image that is not used."""

    file: Path
    reason: Reason
    why: str

    def __str__(self) -> str:
        return on_one_line(f"{self.file}: {self.why}")


class ImageTooLargeError(ValueError):
    """Raised for an image that would need more memory than allowed, before it is decoded."""


def skipped_image(file: Path, error: Exception) -> SkippedImage:
    """Describe the error raised for a file."""
    if isinstance(error, ImageTooLargeError):
        return SkippedImage(file, Reason.TOO_LARGE, str(error))
    if isinstance(error, NotRegularFileError):
        return SkippedImage(file, Reason.DAMAGED, "not a regular file, but a pipe, a device or a socket")
    return SkippedImage(file, Reason.DAMAGED, f"{type(error).__name__}: {error}")


def format_lines(lines: Sequence[object], most: int = NAMED_FILES) -> str:
    """Return one indented line per item; beyond ``most`` they are only counted."""
    shown = [f"  {line}" for line in lines[:most]]
    if len(lines) > most:
        shown.append(f"  and {len(lines) - most} more")
    return "\n".join(shown)


@dataclass
class OtherFiles:
    """Files of a folder that are not images, counted by suffix, and folders that cannot be read.

    Attributes:
        counts: Number of files of each suffix, in lower case; "" for none.
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
        """Return these and others combined, as a new object."""
        joined = OtherFiles(Counter(self.counts), dict(self.examples), list(self.unreadable))
        for other in others:
            joined.counts.update(other.counts)
            joined.examples = other.examples | joined.examples
            joined.unreadable += other.unreadable
        return joined

    def kinds(self, install_hint: Callable[[str], str | None], most: int = 8) -> Iterator[str]:
        """Yield count, suffix and an example of each kind, the most frequent first.

        Args:
            install_hint: Returns what to install for files of a suffix, None if nothing is known to help.
            most: Maximum kinds that are named; the rest is counted.
        """
        for suffix, count in self.counts.most_common(most):
            help_ = install_hint(suffix)
            more = f", readable after: {help_}" if help_ else ""
            yield on_one_line(f"{count} × {suffix or 'no suffix'} ({self.examples[suffix]}{more})")
        if len(self.counts) > most:
            yield f"{len(self.counts) - most} more kinds"
