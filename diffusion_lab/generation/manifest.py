"""``manifest.jsonl``: a line for each image that is done, in their order."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from diffusion_lab.generation.order import MANIFEST, Order
from diffusion_lab.whole_files import written_whole


def read_lines(folder: Path) -> Iterator[dict[str, Any] | None]:
    """The lines of a manifest, one after another, None for one that is damaged; nothing where there is no manifest."""
    path = folder / MANIFEST
    if not path.is_file():
        return
    with path.open("rb") as file:
        for text in file:
            yield _parsed(text)


def lines_told(folder: Path, order: Order) -> int:
    """How many lines, from the first, are those of the order."""
    told = 0
    for line in read_lines(folder):
        if line != json.loads(order.text(told)):
            break
        told += 1
    return told


@contextlib.contextmanager
def manifest_from(folder: Path, order: Order, kept: int) -> Iterator[Callable[[int], None]]:
    """Open a manifest with its first ``kept`` lines in it; what is given appends those of the images up to a number."""
    path, written = folder / MANIFEST, kept
    with written_whole(path) as partial, partial.open("w") as file:
        file.writelines(f"{order.text(index)}\n" for index in range(kept))
    with path.open("a") as file:

        def extend(stop: int) -> None:
            nonlocal written
            file.writelines(f"{order.text(index)}\n" for index in range(written, stop))
            file.flush()
            written = max(written, stop)

        yield extend


def _parsed(text: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) and text.endswith(b"\n") else None
