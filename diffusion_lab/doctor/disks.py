"""Free space and permissions where runs, caches and temporary files are written."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from diffusion_lab.doctor.findings import Finding, advice, ok, problem, shown_path, size

LITTLE, TOO_LITTLE = 5e9, 0.2e9
"""Free bytes below which there is advice, and below which a run can hardly save its checkpoints."""


@dataclass(frozen=True)
class Disk:
    """A place that is written.

    Args:
        use: What is written there.
        folder: The folder, or the nearest one above it that exists.
        device: Number of the file system.
        free: Free bytes for this user.
        total: Bytes of the file system.
        writable: Whether this user may write there.
        needed: Whether training fails without it.
    """

    use: str
    folder: Path
    device: int
    free: int
    total: int
    writable: bool
    needed: bool


def read_disks() -> list[Disk]:
    """Look at the disks of run folders, caches and temporary files."""
    from diffusion_lab.data.cache_location import default_cache_dir

    places = [("runs", Path("outputs").absolute(), True), ("temporary files", Path(tempfile.gettempdir()), True)]
    with contextlib.suppress(FileNotFoundError):  # a user without a home folder
        places.insert(1, ("caches", default_cache_dir(), False))
    return [_disk(use, folder, needed) for use, folder, needed in places]


def _disk(use: str, folder: Path, needed: bool) -> Disk:
    existing = next(path for path in (folder, *folder.parents) if path.is_dir())
    space = shutil.disk_usage(existing)
    writable = os.access(existing, os.W_OK | os.X_OK)
    return Disk(use, existing, existing.stat().st_dev, space.free, space.total, writable, needed)


def disk_findings(disks: Iterable[Disk]) -> Iterator[Finding]:
    """Yield one finding per file system, and one per folder that cannot be written."""
    by_device: dict[int, list[Disk]] = {}
    for disk in disks:
        by_device.setdefault(disk.device, []).append(disk)
    for shared in by_device.values():
        yield _space(shared)
    for disk in (disk for shared in by_device.values() for disk in shared if not disk.writable):
        text = f"{shown_path(disk.folder)} cannot be written: {disk.use} need another folder"
        if disk.use == "runs":
            yield problem("permission", f"{text}, output.base_dir=DIR or another current folder")
        elif disk.needed:
            yield problem("permission", text, "mkdir -p ~/tmp && export TMPDIR=~/tmp")
        else:
            yield advice("permission", text, "mkdir -p /var/tmp/cache && export XDG_CACHE_HOME=/var/tmp/cache")


def _space(shared: list[Disk]) -> Finding:
    disk = shared[0]
    text = f"{size(disk.free)} free of {size(disk.total)}, for {', '.join(each.use for each in shared)}"
    if disk.free >= LITTLE:
        return ok("disk", text)
    commands = [f"du -h -d 2 {shown_path(disk.folder)} | sort -h | tail"]
    if disk.free < TOO_LITTLE and any(each.needed for each in shared):
        return problem(
            "disk", f"{text}: too little for the checkpoints of a run; this shows what takes space", *commands
        )
    return advice("disk", f"{text}: little for long runs and sweeps; this shows what takes space", *commands)
