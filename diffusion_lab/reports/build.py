"""From folders to a page."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from diffusion_lab.reports.discovery import find_runs, names_of
from diffusion_lab.reports.images import ImageStore
from diffusion_lab.reports.page_file import write_page
from diffusion_lab.reports.payload import ReportSource, payload
from diffusion_lab.reports.published import published
from diffusion_lab.reports.quality import QualityFile
from diffusion_lab.reports.records import RunRecord
from diffusion_lab.reports.run_reader import read_results, read_run
from diffusion_lab.reports.settings import default_values

FILE = "report.html"
SINGLE_PIXELS, MANY_PIXELS = 1400, 640
"""Maximum width and height of pictures in the report of one run, and of several."""


class Report:
    """The report of some folders, which can be written again while their runs go on.

    Args:
        targets: Run folders, sweeps, and folders that contain runs.
        file: The page; ``report.html`` in the only target, else in the current folder, if None.
        conf: Folder of the settings that ``train.py`` composes, to show what differs from the defaults.
        published_as: Leave out what names users, machines and folders, since the page leaves the machine, and show runs
            that are about to end in this state. None for a page that stays here.
    """

    def __init__(
        self,
        targets: Sequence[Path],
        file: Path | None = None,
        conf: Path | None = None,
        published_as: str | None = None,
    ) -> None:
        self.targets = list(targets)
        self.file = file or (self.targets[0] if len(self.targets) == 1 else Path()) / FILE
        self.conf = conf
        self.published_as = published_as
        self._images: dict[int, ImageStore] = {}

    def write(self, watch: float | None = None) -> bool:
        """Read the folders and write the page.

        Args:
            watch: Seconds after which the page reads itself again; None if it is complete.

        Returns:
            Whether any of the runs is running.

        Raises:
            ValueError: A target does not exist, or contains no run.
            OSError: The page cannot be written.
        """
        folders = find_runs(self.targets)
        runs = [read_run(folder, name) for folder, name in zip(folders, names_of(folders), strict=True)]
        notes: list[str] = []
        parents = [folder.resolve().parent for folder in folders]
        for parent in dict.fromkeys(parents):
            if (results := read_results(parent, notes)) is not None:
                _distribute(results, [run for run, own in zip(runs, parents, strict=True) if own == parent])
        if self.published_as is not None:
            runs = [published(run, self.published_as) for run in runs]
        most = SINGLE_PIXELS if len(runs) == 1 else MANY_PIXELS
        images = self._images.setdefault(most, ImageStore(most))
        source = ReportSource(self._title(runs), runs, notes, self._folder(), watch)
        write_page(self.file, payload(source, self._defaults, images), images)
        return any(run.state == "running" for run in runs)

    @cached_property
    def _defaults(self) -> dict[str, Any]:
        return default_values(self.conf)

    def _title(self, runs: Sequence[RunRecord]) -> str:
        if len(runs) == 1:
            return runs[0].name
        return self.targets[0].resolve().name if len(self.targets) == 1 else f"{len(runs)} runs"

    def _folder(self) -> str:
        if self.published_as is not None:
            return ", ".join(target.resolve().name for target in self.targets[:3])
        return ", ".join(str(target) for target in self.targets[:3]) + (" …" if len(self.targets) > 3 else "")


def _distribute(results: QualityFile, runs: Sequence[RunRecord]) -> None:
    """Add the results of an evaluation of a sweep to its runs, by the names of their folders."""
    for run in runs:
        part = results.by_run.get(run.folder.name)
        if part is not None:
            run.quality = [*run.quality, *part.rows]
            run.nearest = [*run.nearest, *part.nearest]
