"""Progress bar of sampling, on standard error."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextlib.contextmanager
def progress_bar(images: int, show: bool) -> Iterator[Callable[[float], None]]:
    """Show a progress bar; yields a function that sets the number of images done, fractions included."""
    if not show:
        yield lambda done: None
        return
    columns = (TextColumn("sampling"), BarColumn(), MofNCompleteColumn(), TextColumn("images,"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=images)
        yield lambda done: progress.update(task, completed=done)
