"""Writing ``status.json``, in place if necessary, since a full disk has no space for a new file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusion_lab.files.writing import DISK_FULL, atomic_write, shorten

BLOCK = 512
"""Bytes of the unit in which the system counts the disk space of a file."""

LONGEST = 500
"""Maximum characters of a string written in place; at six bytes each, the file fits into a usual block of 4096."""


def write_status(file: Path, status: Mapping[str, Any]) -> None:
    """Replace a status file atomically, or in place if the disk is full.

    Raises:
        OSError: It cannot be written in either way; the previous one stays.
    """
    try:
        with atomic_write(file, durable=False) as partial:
            partial.write_text(_text(status))
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        short = {name: shorten(value, LONGEST) if isinstance(value, str) else value for name, value in status.items()}
        _overwrite(file, _text(short).encode(), error)


def _text(status: Mapping[str, Any]) -> str:
    return json.dumps(status, indent=2) + "\n"


def _overwrite(file: Path, content: bytes, cause: OSError) -> None:
    """Write into the allocated blocks of a file; raises ``cause`` if it does not exist or they are too small."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        raise cause from None
    try:
        if os.fstat(descriptor).st_blocks * BLOCK < len(content):
            raise cause
        os.pwrite(descriptor, content, 0)
        os.ftruncate(descriptor, len(content))
    finally:
        os.close(descriptor)
