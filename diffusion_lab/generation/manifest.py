"""``manifest.jsonl``: one line per finished image, in order."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from diffusion_lab.files.reading import open_regular, parse_json
from diffusion_lab.files.writing import atomic_write
from diffusion_lab.generation.request import MANIFEST, GenerationRequest

MAX_LINE_BYTES = 2**20
MAX_BRACKETS = 200
"""Maximum brackets in a line, names included: lines are flat, with a few lists for the sampler's options."""


def read_lines(folder: Path) -> Iterator[dict[str, Any] | None]:
    """Yield the lines of a manifest, None for a damaged one; nothing if there is no manifest.

    Raises:
        NotRegularFileError: It is not a regular file.
    """
    try:
        file = open_regular(folder / MANIFEST)
    except FileNotFoundError:
        return
    with file:
        while text := file.readline(MAX_LINE_BYTES):
            yield _parsed(text)


def matching_digests(folder: Path, request: GenerationRequest) -> list[str]:
    """Return the digests of the leading lines that belong to the request."""
    digests: list[str] = []
    for line in read_lines(folder):
        digest = request.digest_in(line, len(digests))
        if digest is None:
            break
        digests.append(digest)
    return digests


def count_matching_lines(folder: Path, request: GenerationRequest) -> int:
    """Return one more than the highest image index among all lines that belong to the request."""
    count = 0
    for line in read_lines(folder):
        index = (line or {}).get("index")
        if index is not None and is_index(index) and request.digest_in(line, index) is not None:
            count = max(count, index + 1)
    return count


def is_index(index: object) -> bool:
    """Return whether a value is a valid image index."""
    return isinstance(index, int) and not isinstance(index, bool) and 0 <= index < 2**31


@contextlib.contextmanager
def open_manifest(
    folder: Path, request: GenerationRequest, initial: int, digests: Sequence[str | None]
) -> Iterator[Callable[[int], None]]:
    """Open a manifest that holds the lines of the first images; yields a function that appends lines up to an index.

    Args:
        folder: The folder.
        request: The generation, which determines the line of each image.
        initial: Number of images whose lines are written at first.
        digests: Digest of each image, read when its line is written. An image without one, which could not be
            generated, gets no line.
    """
    path, written = folder / MANIFEST, initial

    def lines(start: int, stop: int) -> Iterator[str]:
        for index in range(start, stop):
            digest = digests[index]
            if digest is not None:
                yield f"{request.text(index, digest)}\n"

    with atomic_write(path) as partial, partial.open("w") as file:
        file.writelines(lines(0, initial))
    with path.open("a") as file:

        def extend(stop: int) -> None:
            nonlocal written
            file.writelines(lines(written, stop))
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
