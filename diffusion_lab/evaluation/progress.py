"""Progress on standard error: a line for each set of images, and progress bars for features."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from diffusion_lab.console.terminal import printable


class Reporter:
    """Prints progress.

    Args:
        enabled: Whether anything is printed.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def print_line(self, text: str) -> None:
        """Print a line."""
        if self.enabled:
            print(printable(text), file=sys.stderr, flush=True)

    @contextmanager
    def progress_bars(self) -> Iterator[None]:
        """Show the progress bars of ``update`` until the end of the block."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True, disable=not self.enabled)
        try:
            yield
        finally:
            self._progress.stop()
            self._progress, self._tasks = None, {}

    def update(self, name: str, done: int, total: int) -> None:
        """Update the progress bar of a set of images."""
        if self._progress is None:
            return
        if name not in self._tasks:
            self._progress.start()
            self._tasks[name] = self._progress.add_task(f"features of {name}", total=total)
        self._progress.update(self._tasks[name], completed=done)
