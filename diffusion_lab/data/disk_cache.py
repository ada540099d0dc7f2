"""The decoded images of a folder, kept on disk from one run to the next.

One folder for each folder of images, in it one cache for each way of decoding it and each state of its files::

    CACHE_DIR/NAME-PLACE/.lock                       held by the process that decodes
    CACHE_DIR/NAME-PLACE/SETTINGS-FILES/pixels.bin   the images, uint8, one after the other
    CACHE_DIR/NAME-PLACE/SETTINGS-FILES/about.json   what is in it
    CACHE_DIR/NAME-PLACE/SETTINGS-FILES/*.npy        corrupt files by number; height and width where they differ

A cache is written beside its place and renamed when it is whole, so what has its name is whole. PLACE is a hash of
where the images lie, SETTINGS of all that changes pixels, FILES of the files' names, sizes and times: a cache of other
files or other settings has another name and is never opened.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import PIL
import torch

from diffusion_lab.data.decoded import DecodedSource, Progress, decode_all, least_bytes, sides_to_keep
from diffusion_lab.data.image_folder import CROPS, ImageFolderSource
from diffusion_lab.data.source import IndexArray

FORMAT = 2
"""Of the files of a cache, and of how pictures become pixels: another number, and no earlier cache is opened."""

PIXELS, ABOUT, CORRUPT, SIDES = "pixels.bin", "about.json", "corrupt.npy", "sides.npy"
PARTIAL = ".partial-"

Say = Callable[[str], None]


def default_cache_dir() -> Path:
    """``diffusion_lab`` in the user's folder for caches: ``$XDG_CACHE_HOME``, or ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diffusion_lab"


@dataclass(frozen=True)
class CachePlace:
    """Where the cache of a folder of images lies; the names are fixed before a corrupt file is dropped."""

    folder: Path
    settings: str
    files: str

    @classmethod
    def of(cls, source: ImageFolderSource, base: Path) -> CachePlace:
        path = source.path.resolve()
        # the versions, because decoders and filters change the last bit now and then
        versions = (FORMAT, PIL.__version__, torch.__version__.partition("+")[0])
        pixels = (*versions, source.channels, source.image_size, CROPS[source.crop], source.background)
        settings = _short(repr((pixels, source.class_names)).encode())
        return cls(base / f"{path.name}-{_short(os.fsencode(path))}", settings, source.paths.digest()[:16])

    @cached_property
    def cache(self) -> Path:
        return self.folder / f"{self.settings}-{self.files}"


def cached_on_disk(
    source: ImageFolderSource, base: Path, say: Say = lambda line: None, progress: Progress | None = None
) -> DecodedSource:
    """The images of a folder from its cache, which is made first where there is none.

    Of several processes one decodes, the others wait for it. Corrupt files are dropped or fatal as ``check`` has it;
    those of an earlier run are tried again, so that one that could not be read for a moment is not lost.

    Args:
        source: the folder; what is corrupt is dropped from it.
        base: the folder of all caches.
        say: told a line before something takes long or is removed.
        progress: told of each decoded file.

    Raises:
        ValueError: as ``check``.
        OSError: the cache cannot be written.
    """
    place = CachePlace.of(source, base)
    if (found := _opened(source, place)) is not None:
        return found
    place.folder.mkdir(parents=True, exist_ok=True)
    with _locked(place.folder, say) as alone:
        if (found := _opened(source, place)) is not None:
            return found
        if alone:
            _remove_outdated(place, say)
        _write(source, place, say, progress)
    return _read(source, place.cache, source.labels)


def _write(source: ImageFolderSource, place: CachePlace, say: Say, progress: Progress | None) -> None:
    """Decode all files into a folder that is renamed at the end. Where another process was first, its cache stays."""
    needed, free = least_bytes(source), shutil.disk_usage(place.folder).free
    least = "" if source.crop == "center" else "at least "
    say(f"{source.key}: decoding {len(source):,} images once, {least}{_size(needed)} in {place.cache}")
    if needed > free:
        raise OSError(f"{_size(needed)} are needed in {place.folder} and {_size(free)} are free")
    partial = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=place.folder))
    try:
        with (partial / PIXELS).open("wb") as stream:
            done = decode_all(source, stream, progress)
        np.save(partial / CORRUPT, np.array(sorted(done.corrupt), dtype=np.int64))
        source.drop(done.corrupt)
        if (sides := sides_to_keep(source, done.sides)) is not None:
            np.save(partial / SIDES, sides)
        about = {"images": len(source), "of": str(source.path.resolve())}
        fingerprint = source.fingerprint_of(done.contents())
        (partial / ABOUT).write_text(json.dumps({**about, "fingerprint": fingerprint}, indent=2) + "\n")
        _flush(partial)
        with contextlib.suppress(FileExistsError):
            _rename(partial, place.cache)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _opened(source: ImageFolderSource, place: CachePlace) -> DecodedSource | None:
    """The cache, if it is there and what it says of the folder is still so."""
    if not place.cache.exists():
        return None
    try:
        corrupt = np.load(place.cache / CORRUPT, allow_pickle=False)
        found = _read(source, place.cache, np.delete(source.labels, corrupt))
    except (OSError, ValueError, LookupError):
        _discard(place.cache)
        return None
    faults = {index: error for index in corrupt.tolist() if (error := source.fault(index)) is not None}
    if len(faults) < len(corrupt):
        _discard(place.cache)
        return None
    source.drop(faults)
    return found


def _read(source: ImageFolderSource, cache: Path, labels: IndexArray) -> DecodedSource:
    """Raises OSError, ValueError or KeyError for a cache that someone damaged."""
    return DecodedSource(
        cache / PIXELS,
        np.load(cache / SIDES, allow_pickle=False) if (cache / SIDES).exists() else None,
        labels,
        source.class_names,
        source.channels,
        source.image_size,
        json.loads((cache / ABOUT).read_text())["fingerprint"],
    )


def _discard(cache: Path) -> None:
    """Remove a cache that is not what it should be; what other processes have mapped of it stays theirs."""
    with contextlib.suppress(OSError):
        aside = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=cache.parent))
        cache.rename(aside / "damaged")
        shutil.rmtree(aside, ignore_errors=True)


def _remove_outdated(place: CachePlace, say: Say) -> None:
    """Remove what killed processes left, and the caches of the folder as it was before its files changed.

    Those with other settings may be wanted again, so they are only told of.
    """
    for leftover in place.folder.glob(f"{PARTIAL}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    for outdated in place.folder.glob(f"{place.settings}-*"):
        say(f"the files have changed since {outdated} was made: removed")
        _discard(outdated)
    others = list(place.folder.glob(f"*/{PIXELS}"))
    if others:
        size = _size(sum(file.stat().st_size for file in others))
        say(f"{len(others)} cache(s) of the same images with other settings take {size} in {place.folder}")


@contextlib.contextmanager
def _locked(folder: Path, say: Say) -> Iterator[bool]:
    """Let one process decode at a time. Gives False where the file system knows no locks: all decode, one is first."""
    with (folder / ".lock").open("a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # it depends on the system which of them says that it is held
            say(f"another process is decoding these images in {folder}: waiting for it")
            fcntl.lockf(file, fcntl.LOCK_EX)
        except OSError:
            yield False
            return
        yield True


def _flush(folder: Path) -> None:
    """Have the disk take the files, so that a cache with its name is whole after a power failure too."""
    for file in folder.iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())


def _rename(partial: Path, cache: Path) -> None:
    try:
        partial.rename(cache)
    except OSError as error:
        if cache.is_dir():  # not empty, and so not replaced
            raise FileExistsError(str(cache)) from error
        raise


def _short(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _size(count: int) -> str:
    """Bytes in words."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
