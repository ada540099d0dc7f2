"""Safe reading of files from other programs or people, without blocking and with bounded size."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

MAX_JSON_BYTES = 16 * 2**20
"""Default size limit of a JSON file, in bytes."""


class NotRegularFileError(OSError):
    """Raised for a FIFO, a device, a socket or a folder: reading it could block forever or never end."""


class FileTooLargeError(OSError):
    """Raised for a file that is larger than allowed."""


def open_regular(path: Path, max_bytes: int | None = None) -> BinaryIO:
    """Open a regular file for reading, following links; anything else is closed after the check.

    Args:
        path: The file.
        max_bytes: Maximum size in bytes; no limit if None.

    Raises:
        NotRegularFileError: It is not a regular file.
        FileTooLargeError: It is larger than ``max_bytes``.
        OSError: It is missing or cannot be read.
    """
    # Without O_NONBLOCK, opening a FIFO waits for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            raise NotRegularFileError(f"{path} is not a regular file")
        if max_bytes is not None and state.st_size > max_bytes:
            raise FileTooLargeError(f"{path} has {state.st_size} bytes, at most {max_bytes} are read")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: Path, max_bytes: int) -> bytes:
    """Return the content of a regular file of at most ``max_bytes`` bytes. Raises as ``open_regular`` does."""
    with open_regular(path, max_bytes) as file:
        content = file.read(max_bytes + 1)  # the file may grow while it is read
    if len(content) > max_bytes:
        raise FileTooLargeError(f"{path} has more than {max_bytes} bytes")
    return content


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Return the JSON value in a regular file.

    Raises:
        ValueError: It is not UTF-8, not JSON, or nested too deeply.
        OSError: As in ``open_regular``.
    """
    return parse_json(read_regular(path, max_bytes), str(path))


def parse_json(content: bytes | str, source: str) -> Any:
    """Return the JSON value in ``content``; ``source`` names it in errors.

    Raises:
        ValueError: It is not UTF-8, not JSON, or nested too deeply to be read.
    """
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError(f"{source} is not valid JSON: nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"{source} is not valid JSON: {error}") from error
