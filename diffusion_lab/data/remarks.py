"""Remarks on a data set that a run records: skipped images and notes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from diffusion_lab.data.folder_report import describe_other_files
from diffusion_lab.data.image_folder import ImageFolderSource
from diffusion_lab.data.skipped_images import SkippedImage

MAX_LINES = 1000
"""Maximum number of images named in the log of a run; further ones are counted."""


@dataclass(frozen=True)
class Remarks:
    """Remarks on the images of a run.

    Attributes:
        skipped: Images that are not used for training or validation.
        no_pictures: Number of other files in the folders.
        notes: Sentences for the log of the run.
    """

    skipped: tuple[SkippedImage, ...] = ()
    no_pictures: int = 0
    notes: tuple[str, ...] = ()

    @classmethod
    def from_folders(cls, folders: Sequence[ImageFolderSource], notes: Iterable[str] = ()) -> Remarks:
        """Return the remarks on folders that have been checked."""
        others = [line for folder in folders for line in describe_other_files(folder.key, folder.others)]
        return cls(
            tuple(image for folder in folders for image in folder.skipped_images),
            sum(folder.others.counts.total() for folder in folders),
            (*others, *notes),
        )

    def with_notes(self, notes: Iterable[str]) -> Remarks:
        """Return these remarks with more notes."""
        return replace(self, notes=(*self.notes, *notes))

    def with_skipped(self, images: Iterable[SkippedImage]) -> Remarks:
        """Return these remarks with more skipped images; files that are already included are ignored."""
        known = {image.file for image in self.skipped}
        new = {image.file: image for image in images if image.file not in known}
        return replace(self, skipped=(*self.skipped, *new.values())) if new else self

    def counts(self) -> dict[str, int]:
        """Return the number of skipped files by reason."""
        counts = Counter(image.reason.value for image in self.skipped)
        return {**counts, "no_pictures": self.no_pictures} if self.no_pictures else dict(counts)

    def lines(self) -> Iterator[str]:
        """Yield the remarks for a log, one line per file."""
        yield from self.notes
        for image in self.skipped[:MAX_LINES]:
            yield f"image skipped ({image.reason.value}): {image}"
        if len(self.skipped) > MAX_LINES:
            yield f"{len(self.skipped) - MAX_LINES} more images skipped"
