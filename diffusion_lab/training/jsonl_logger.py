"""Logger of ``metrics.jsonl``, the authoritative record of a run's metrics."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console

from diffusion_lab.files.reading import parse_json, read_regular
from diffusion_lab.files.run_files import METRICS
from diffusion_lab.files.writing import atomic_write
from diffusion_lab.training.mirror import warn

MAX_METRICS_BYTES = 4 * 2**30
SETTLING_SECONDS = 30.0
"""Metrics logged this long before a kill are assumed to have reached W&B."""


class JsonlLogger(Logger):
    """Writes one JSON object per line to ``metrics.jsonl``, flushing each, so that a killed run keeps every line.

    If the disk is full, lines are kept in memory and written once there is space.

    Attributes:
        earlier_lines: Lines of the earlier part of a resumed run, without those of steps that are repeated.
        settled_step: Metrics up to this optimizer step were logged ``SETTLING_SECONDS`` before the earlier part ended.

    Args:
        folder: Folder of the file.
        resumed_at: Optimizer steps done when the run is resumed from a checkpoint: the file and its ``seconds`` are
            continued, and lines of later steps dropped. None starts a new file.
        console: Console for a warning if the file cannot be written.
    """

    def __init__(self, folder: Path, resumed_at: int | None = None, console: Console | None = None) -> None:
        super().__init__()
        self.path = folder / METRICS
        self.console = console or Console(stderr=True)
        earlier = _lines(self.path) if resumed_at is not None else []
        self.earlier_lines = [line for line in earlier if line["step"] < (resumed_at or 0)]
        recent = [line for line in earlier if line["seconds"] > earlier[-1]["seconds"] - SETTLING_SECONDS]
        self.settled_step = min((line["step"] for line in recent), default=0) - 1
        self.started = time.monotonic() - (self.earlier_lines[-1]["seconds"] if self.earlier_lines else 0.0)
        self._pending = [json.dumps(line) + "\n" for line in self.earlier_lines]
        self._has_warned = False
        self._size: int | None = None  # of what this object has written; None until it has replaced an earlier file
        if self.path.is_file():
            self._write_or_warn()

    @property
    def name(self) -> str:
        return "jsonl"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        line = {"step": step, "seconds": round(time.monotonic() - self.started, 3), **metrics}
        self._pending.append(json.dumps(line, default=float) + "\n")  # callbacks may log tensors
        self._write_or_warn()

    def _write_or_warn(self) -> None:
        try:
            self._write()
        except OSError as error:
            if not self._has_warned:
                self._has_warned = True
                warn(
                    self.console,
                    f"{self.path} cannot be written ({error.strerror}): training continues, and metrics are kept in "
                    "memory until there is space",
                )

    def close(self) -> None:
        """Write pending lines, or warn that they are lost."""
        try:
            self._write()
        except OSError as error:
            warn(self.console, f"{len(self._pending)} lines of {self.path} are lost ({error.strerror})")

    def _write(self) -> None:
        content = "".join(self._pending).encode()
        complete = 0  # bytes of complete lines in the file
        if self._size is None:
            with atomic_write(self.path, durable=False) as partial:
                partial.write_bytes(content)
        elif content:
            with self.path.open("ab", buffering=0) as file:
                complete = min(self._size, file.tell())  # fewer if the file was removed meanwhile
                if file.tell() > complete:  # an incomplete line of a failed attempt
                    file.truncate(complete)
                if file.write(content) != len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        else:
            return
        self._size = complete + len(content)
        self._pending.clear()

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the settings are in the run folder's ``config.yaml``."""


def _lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics file, skipping invalid ones such as the incomplete last line of a killed run."""
    try:
        content = read_regular(path, MAX_METRICS_BYTES)
    except OSError:
        return []
    lines = []
    for text in content.splitlines():
        with contextlib.suppress(ValueError):
            line = parse_json(text, str(path))
            if isinstance(line, dict) and _is_count(line.get("step")) and _is_time(line.get("seconds")):
                lines.append(line)
    return lines


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
