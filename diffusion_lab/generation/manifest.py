"""``manifest.jsonl``: a line for each image that is done, in their order."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from diffusion_lab.atomic_files import atomic_write
from diffusion_lab.generation.request import MANIFEST, GenerationRequest
from diffusion_lab.safe_files import open_regular, parse_json

MAX_LINE_BYTES = 2**20
MAX_BRACKETS = 200
"""Of a line, in its names too: lines are flat, with a few lists for the options of the sampler."""


def read_lines(folder: Path) -> Iterator[dict[str, Any] | None]:
    """Yield the lines of a manifest in turn, None for one that is damaged; nothing where there is no manifest.

    Raises:
        NotRegularFileError: It is something other than a file.
    """
    try:
        file = open_regular(folder / MANIFEST)
    except FileNotFoundError:
        return
    with file:
        while text := file.readline(MAX_LINE_BYTES):
            yield _parsed(text)


def matching_digests(folder: Path, order: GenerationRequest) -> list[str]:
    """Return the digests in the lines, from the first on, that are those of the order."""
    digests: list[str] = []
    for line in read_lines(folder):
        digest = order.digest_in(line, len(digests))
        if digest is None:
            break
        digests.append(digest)
    return digests


def count_matching_lines(folder: Path, order: GenerationRequest) -> int:
    """Return one more than the highest number of an image of the order that a line, wherever it stands, is of."""
    count = 0
    for line in read_lines(folder):
        index = (line or {}).get("index")
        if index is not None and is_number(index) and order.digest_in(line, index) is not None:
            count = max(count, index + 1)
    return count


def is_number(index: object) -> bool:
    """Whether this may be the number of an image."""
    return isinstance(index, int) and not isinstance(index, bool) and 0 <= index < 2**31


@contextlib.contextmanager
def manifest_from(
    folder: Path, order: GenerationRequest, kept: int, digests: Sequence[str | None]
) -> Iterator[Callable[[int], None]]:
    """Open a manifest with its first ``kept`` lines in it; what is given appends those of the images up to a number.

    Args:
        folder: Where.
        order: What is known of each image.
        kept: Number of lines to begin with.
        digests: Of all images, by their number; each is read when its line is written. An image without one, which
            could not be made, has no line.
    """
    path, written = folder / MANIFEST, kept

    def text(start: int, stop: int) -> Iterator[str]:
        for index in range(start, stop):
            digest = digests[index]
            if digest is not None:
                yield f"{order.text(index, digest)}\n"

    with atomic_write(path) as partial, partial.open("w") as file:
        file.writelines(text(0, kept))
    with path.open("a") as file:

        def extend(stop: int) -> None:
            nonlocal written
            file.writelines(text(written, stop))
            file.flush()
            written = max(written, stop)

        yield extend


def _parsed(text: bytes) -> dict[str, Any] | None:
    if not text.endswith(b"\n") or text.count(b"[") + text.count(b"{") > MAX_BRACKETS:
        return None
    try:
        line = parse_json(text, MANIFEST)
    except ValueError:
        return None
    return line if isinstance(line, dict) else None
