"""What the run of a data set records about it: pictures that are left out, and other remarks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from diffusion_lab.data.folder_report import other_files_in_words
from diffusion_lab.data.image_folder import ImageFolderSource
from diffusion_lab.data.left_out import LeftOutPicture

MOST_LINES = 1000
"""Pictures that are named in the log of a run; more are counted."""


@dataclass(frozen=True)
class Remarks:
    """Remarks on the images of a run.

    Attributes:
        left_out: Pictures that are not trained on or validated on.
        no_pictures: How many other files lie in the folders.
        notes: Sentences for the log of the run.
    """

    left_out: tuple[LeftOutPicture, ...] = ()
    no_pictures: int = 0
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, folders: Sequence[ImageFolderSource], notes: Iterable[str] = ()) -> Remarks:
        """What is to be said of folders that have been checked."""
        others = [line for folder in folders for line in other_files_in_words(folder.key, folder.others)]
        return cls(
            tuple(picture for folder in folders for picture in folder.left_out),
            sum(folder.others.counts.total() for folder in folders),
            (*others, *notes),
        )

    def noting(self, notes: Iterable[str]) -> Remarks:
        """The same and more notes."""
        return replace(self, notes=(*self.notes, *notes))

    def leaving_out(self, pictures: Iterable[LeftOutPicture]) -> Remarks:
        """The same and the pictures whose files are not among those that are left out already."""
        known = {picture.file for picture in self.left_out}
        new = {picture.file: picture for picture in pictures if picture.file not in known}
        return replace(self, left_out=(*self.left_out, *new.values())) if new else self

    def counts(self) -> dict[str, int]:
        """Files that are left out for each reason."""
        found = Counter(picture.reason.value for picture in self.left_out)
        return {**found, "no_pictures": self.no_pictures} if self.no_pictures else dict(found)

    def lines(self) -> Iterator[str]:
        """All of it for a log, one file a line."""
        yield from self.notes
        for picture in self.left_out[:MOST_LINES]:
            yield f"image left out ({picture.reason.value}): {picture}"
        if len(self.left_out) > MOST_LINES:
            yield f"{len(self.left_out) - MOST_LINES} more images left out"
