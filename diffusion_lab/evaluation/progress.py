"""What is being done, on standard error: a line for each set of images, and bars for what takes long."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from diffusion_lab.console.terminal import printable


class Reporter:
    """Says what is being done.

    Args:
        shows: Whether anything is said.
    """

    def __init__(self, shows: bool = True) -> None:
        self.shows = shows
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def say(self, text: str) -> None:
        """Print a line."""
        if self.shows:
            print(printable(text), file=sys.stderr, flush=True)

    @contextmanager
    def bars(self) -> Iterator[None]:
        """Show bars for what ``told`` is called with, until the end of the block."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True, disable=not self.shows)
        try:
            yield
        finally:
            self._bar.stop()
            self._bar, self._tasks = None, {}

    def told(self, what: str, done: int, total: int) -> None:
        """Show how many images are done."""
        if self._bar is None:
            return
        if what not in self._tasks:
            self._bar.start()
            self._tasks[what] = self._bar.add_task(f"features of {what}", total=total)
        self._bar.update(self._tasks[what], completed=done)
