"""Output folder of a generation: a new one, or that of the same generation, to resume it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffusion_lab.files.folder_lock import hold_lock, in_use_error
from diffusion_lab.files.reading import read_json
from diffusion_lab.files.writing import atomic_write, name_folder_in_errors, remove_partial_files
from diffusion_lab.generation.arrays import ARRAYS
from diffusion_lab.generation.images import RAW
from diffusion_lab.generation.manifest import count_matching_lines, is_index, read_lines
from diffusion_lab.generation.request import FILE_NAME, LOCATION_KEYS, MANIFEST, GenerationRequest, differences
from diffusion_lab.runtime.process_identity import is_alive, own_identity

KEY = "output.base_dir/output.subdirs.generated"

UNFINISHED = ".unfinished.json"
"""Record of the generation in progress, removed when it is finished."""

GRID, MEASURES = "grid.png", "evaluation.json"
MAX_NOTE_BYTES = 2**22
TIME_STAMP = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d(-[0-9a-f]{6})?")
"""Default name of a folder."""


@dataclasses.dataclass(frozen=True)
class GenerationFolder:
    """Folder locked by this process, and its generation; ``unfinished`` if parts of it may be missing."""

    path: Path
    request: GenerationRequest
    count: int
    unfinished: bool

    def begin(self) -> None:
        """Record the generation in progress, and remove files made of all images: they would lack the new ones."""
        note = {"order": self.request.settings(), "num_samples": self.count, "process": own_identity()}
        with atomic_write(self.path / UNFINISHED) as partial:
            partial.write_text(json.dumps(note, indent=2) + "\n")
        for name in (GRID, MEASURES):
            (self.path / name).unlink(missing_ok=True)

    def finish(self) -> None:
        """Remove the record of the generation in progress."""
        (self.path / UNFINISHED).unlink(missing_ok=True)


@contextlib.contextmanager
def open_generation_folder(
    folder: Path, request: GenerationRequest, count: int, overwrite: bool, renew: bool = False
) -> Iterator[GenerationFolder]:
    """Open and lock a folder for a generation, resuming the same generation if the folder holds it.

    A folder with a default name, the time, is new at each start: the newest unfinished folder of the same generation
    is used instead. If the seed is left open (None in ``request``), that of the earlier images is used.

    Args:
        folder: The folder; created if missing.
        request: The images.
        count: Number of requested images; if the folder holds more, they stay and count.
        overwrite: Start over where the folder would be refused or the generation is finished. An unfinished one is
            resumed.
        renew: Start over where the folder would be refused; a finished generation of these images stays.

    Raises:
        ValueError: It holds other images, or another process writes into it.
    """
    if TIME_STAMP.fullmatch(folder.name) and not folder.exists():
        folder = _find_unfinished(folder.parent, request, count) or folder
    with name_folder_in_errors(folder, KEY):
        folder.mkdir(parents=True, exist_ok=True)
    with hold_lock(folder, KEY):
        _refuse_if_in_use(folder)
        unfinished = (folder / UNFINISHED).exists()
        faults = _conflicts(folder, request)
        if (faults and (overwrite or renew)) or (overwrite and not unfinished):
            _clear(folder)
        elif faults:
            raise ValueError(
                f"{KEY} holds generated images already, got {str(folder)!r} ({'; '.join(faults)}): choose another "
                "folder or set output.overwrite=true"
            )
        remove_partial_files(folder)
        adopted = _adopt_earlier(folder, request)
        yield GenerationFolder(folder, adopted, max(count, count_matching_lines(folder, adopted)), unfinished)


def _conflicts(folder: Path, request: GenerationRequest) -> list[str]:
    """Return the reasons why a folder cannot take these images; none if it is empty or holds the same generation."""
    if not _generated_files(folder):
        return []
    note = _read_note(folder)
    if note is not None:
        return differences(note["order"], _with_seed_of(note["order"], request).settings())
    has_line = False
    for position, line in enumerate(read_lines(folder)):
        if line is not None:
            has_line = True
            index = line["index"] if is_index(line.get("index")) else position
            faults = differences(line, _with_seed_of(line, request).line(index))
            if faults:
                return faults
    return [] if has_line else ["it does not say of which generation"]


def _adopt_earlier(folder: Path, request: GenerationRequest) -> GenerationRequest:
    """Return the request with the locations and, if it is open, the seed of the earlier images, else a new seed."""
    note = _read_note(folder)
    earlier = note["order"] if note else next((line for line in read_lines(folder) if line), {})
    locations = {name: earlier[name] for name in LOCATION_KEYS if isinstance(earlier.get(name), str)}
    request = _with_seed_of(earlier, request)
    metadata = {**request.metadata, **locations}
    if metadata["seed"] is None:
        metadata["seed"] = secrets.randbits(32)
    return dataclasses.replace(request, metadata=metadata)


def _with_seed_of(earlier: dict[str, Any], request: GenerationRequest) -> GenerationRequest:
    seed = earlier.get("seed")
    if request.metadata["seed"] is not None or not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        return request
    return dataclasses.replace(request, metadata={**request.metadata, "seed": seed})


def _find_unfinished(parent: Path, request: GenerationRequest, count: int) -> Path | None:
    """Return the newest folder with a default name in which the same command was interrupted and no process works."""
    named = (path for path in parent.glob("*") if TIME_STAMP.fullmatch(path.name))
    for folder in sorted(named, reverse=True):
        note = _read_note(folder)
        if note is None or note["num_samples"] != count or _conflicts(folder, request):
            continue
        with contextlib.suppress(ValueError), hold_lock(folder, KEY):
            _refuse_if_in_use(folder)
            return folder
    return None


def _refuse_if_in_use(folder: Path) -> None:
    """Refuse a folder in which another process is generating images, even if its lock was removed.

    Raises:
        ValueError: Naming the process.
    """
    process = (_read_note(folder) or {}).get("process")
    if not isinstance(process, dict) or process.get("pid") == os.getpid():
        return
    if is_alive(process):
        raise in_use_error(folder, KEY, f"process {process['pid']} on {process['host']}")


def _generated_files(folder: Path) -> list[Path]:
    """Return the files with names that a generation writes."""
    names = (MANIFEST, GRID, ARRAYS, UNFINISHED, RAW)
    images = [path for path in folder.glob("sample_*.png") if FILE_NAME.fullmatch(path.name)]
    return [*images, *(folder / name for name in names if os.path.lexists(folder / name))]


def _clear(folder: Path) -> None:
    for stale in (*_generated_files(folder), folder / MEASURES):
        stale.unlink(missing_ok=True)


def _read_note(folder: Path) -> dict[str, Any] | None:
    try:
        note = read_json(folder / UNFINISHED, MAX_NOTE_BYTES)
        return note if isinstance(note["order"], dict) and isinstance(note["num_samples"], int) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
