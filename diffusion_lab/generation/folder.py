"""Which folder a generation goes into: a new one, or that of the same generation where it stopped."""

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

from diffusion_lab.folder_lock import held, in_use_error
from diffusion_lab.generation.arrays import ARRAYS
from diffusion_lab.generation.images import RAW
from diffusion_lab.generation.manifest import count_told, is_number, read_lines
from diffusion_lab.generation.order import FILE_NAME, MANIFEST, PLACES, Order, differences
from diffusion_lab.process_identity import is_alive, own_identity
from diffusion_lab.safe_files import read_json
from diffusion_lab.whole_files import naming_folder, remove_partial_files, written_whole

KEY = "output.base_dir/output.subdirs.generated"

UNFINISHED = ".unfinished.json"
"""What is being made; it goes when all of it is there."""

GRID, MEASURES = "grid.png", "evaluation.json"
MAX_NOTE_BYTES = 2**22
TIME_STAMP = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d(-[0-9a-f]{6})?")
"""The name of a folder that nobody named."""


@dataclasses.dataclass(frozen=True)
class Opened:
    """A folder that this process alone writes into, and what goes there; ``unfinished`` where some of it may lack."""

    path: Path
    order: Order
    count: int
    unfinished: bool

    def begin(self) -> None:
        """Note what is being made, and remove what is made of all images: it would lack the new ones."""
        note = {"order": self.order.request(), "num_samples": self.count, "process": own_identity()}
        with written_whole(self.path / UNFINISHED) as partial:
            partial.write_text(json.dumps(note, indent=2) + "\n")
        for name in (GRID, MEASURES):
            (self.path / name).unlink(missing_ok=True)

    def finish(self) -> None:
        """All of it is there."""
        (self.path / UNFINISHED).unlink(missing_ok=True)


@contextlib.contextmanager
def opened(folder: Path, order: Order, count: int, overwrite: bool, renew: bool = False) -> Iterator[Opened]:
    """Open a folder for a generation, going on with the same one where it holds that.

    A folder that nobody named, by the time, is new at each start: there the newest unfinished one of the same
    generation takes its place. Where the seed is left open (None in ``order``) that of the earlier images is taken.

    Args:
        folder: The folder; made where it is not there.
        order: The images.
        count: How many are asked for; where there are more, they stay and count.
        overwrite: Begin anew instead of refusing, and where the generation is finished. An unfinished one goes on.
        renew: Begin anew instead of refusing; a finished generation of these images stays.

    Raises:
        ValueError: It holds other images, or another process writes into it.
    """
    if TIME_STAMP.fullmatch(folder.name) and not folder.exists():
        folder = _unfinished(folder.parent, order, count) or folder
    with naming_folder(folder, KEY):
        folder.mkdir(parents=True, exist_ok=True)
    with held(folder, KEY):
        _refuse_if_at_work(folder)
        unfinished = (folder / UNFINISHED).exists()
        faults = _refusals(folder, order)
        if (faults and (overwrite or renew)) or (overwrite and not unfinished):
            _clear(folder)
        elif faults:
            raise ValueError(
                f"{KEY} holds generated images already, got {str(folder)!r} ({'; '.join(faults)}): choose another "
                "folder or set output.overwrite=true"
            )
        remove_partial_files(folder)
        adopted = _adopting(folder, order)
        yield Opened(folder, adopted, max(count, count_told(folder, adopted)), unfinished)


def _refusals(folder: Path, order: Order) -> list[str]:
    """Why a folder cannot take these images; nothing where it is free, or holds the same generation."""
    if not _ours(folder):
        return []
    note = _read_note(folder)
    if note is not None:
        return differences(note["order"], _with_seed_of(note["order"], order).request())
    found = False
    for position, line in enumerate(read_lines(folder)):
        if line is not None:
            found = True
            index = line["index"] if is_number(line.get("index")) else position
            faults = differences(line, _with_seed_of(line, order).line(index))
            if faults:
                return faults
    return [] if found else ["nothing tells of which generation"]


def _adopting(folder: Path, order: Order) -> Order:
    """The order with what the earlier images tell of places and, where it is open, the seed; or with a new seed."""
    note = _read_note(folder)
    earlier = note["order"] if note else next((line for line in read_lines(folder) if line), {})
    places = {name: earlier[name] for name in PLACES if isinstance(earlier.get(name), str)}
    order = _with_seed_of(earlier, order)
    about = {**order.about, **places}
    if about["seed"] is None:
        about["seed"] = secrets.randbits(32)
    return dataclasses.replace(order, about=about)


def _with_seed_of(earlier: dict[str, Any], order: Order) -> Order:
    seed = earlier.get("seed")
    if order.about["seed"] is not None or not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        return order
    return dataclasses.replace(order, about={**order.about, "seed": seed})


def _unfinished(parent: Path, order: Order, count: int) -> Path | None:
    """The newest folder with a time for a name in which the same command was interrupted, and no process is at work."""
    named = (path for path in parent.glob("*") if TIME_STAMP.fullmatch(path.name))
    for folder in sorted(named, reverse=True):
        note = _read_note(folder)
        if note is None or note["num_samples"] != count or _refusals(folder, order):
            continue
        with contextlib.suppress(ValueError), held(folder, KEY):
            _refuse_if_at_work(folder)
            return folder
    return None


def _refuse_if_at_work(folder: Path) -> None:
    """Refuse a folder in which another process is making images, though somebody removed its lock.

    Raises:
        ValueError: Naming the process.
    """
    process = (_read_note(folder) or {}).get("process")
    if not isinstance(process, dict) or process.get("pid") == os.getpid():
        return
    if is_alive(process):
        raise in_use_error(folder, KEY, f"process {process['pid']} on {process['host']}")


def _ours(folder: Path) -> list[Path]:
    """What a generation leaves, whosesoever it is."""
    names = (MANIFEST, GRID, ARRAYS, UNFINISHED, RAW)
    pictures = [path for path in folder.glob("sample_*.png") if FILE_NAME.fullmatch(path.name)]
    return [*pictures, *(folder / name for name in names if os.path.lexists(folder / name))]


def _clear(folder: Path) -> None:
    for stale in (*_ours(folder), folder / MEASURES):
        stale.unlink(missing_ok=True)


def _read_note(folder: Path) -> dict[str, Any] | None:
    try:
        note = read_json(folder / UNFINISHED, MAX_NOTE_BYTES)
        return note if isinstance(note["order"], dict) and isinstance(note["num_samples"], int) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
