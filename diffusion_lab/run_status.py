"""Writes ``status.json``, if need be over the bytes that are there already: a full disk has no room for a new file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusion_lab.atomic_files import DISK_FULL, atomic_write, shorten

BLOCK = 512
"""Bytes of a unit in which the system counts what a file takes of its disk."""

LONGEST = 500
"""Characters of a text that is written over; with six bytes for each of them, all fits into a usual block of 4096."""


def write_status(file: Path, status: Mapping[str, Any]) -> None:
    """Replace a status file in one move, or where the disk is full in place.

    Raises:
        OSError: It cannot be written in either way; the one before stays.
    """
    try:
        with atomic_write(file, durable=False) as partial:
            partial.write_text(_text(status))
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        short = {name: shorten(value, LONGEST) if isinstance(value, str) else value for name, value in status.items()}
        _write_over(file, _text(short).encode(), error)


def _text(status: Mapping[str, Any]) -> str:
    return json.dumps(status, indent=2) + "\n"


def _write_over(file: Path, content: bytes, why: OSError) -> None:
    """Write into the blocks that a file has; raises ``why`` where there is none, or they are too small."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        raise why from None
    try:
        if os.fstat(descriptor).st_blocks * BLOCK < len(content):
            raise why
        os.pwrite(descriptor, content, 0)
        os.ftruncate(descriptor, len(content))
    finally:
        os.close(descriptor)
