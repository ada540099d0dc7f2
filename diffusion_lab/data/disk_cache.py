"""The decoded images of a folder, kept on disk from one run to the next.

One folder for each folder of images, in it one cache for each way of decoding it and each state of its files::

    CACHE_DIR/NAME-PLACE/.lock                       held by the process that decodes
    CACHE_DIR/NAME-PLACE/SETTINGS-FILES/pixels.bin   the images, uint8, one after the other
    CACHE_DIR/NAME-PLACE/SETTINGS-FILES/about.json   what is in it, and the hashes of the small files
    CACHE_DIR/NAME-PLACE/SETTINGS-FILES/*.npy        checksums of the pixels, hashes of the image files, corrupt files
                                                     by number; height and width where they differ

A cache is written beside its place and renamed when it is whole, so what has its name is whole. PLACE is a hash of
where the images lie, SETTINGS of all that changes pixels, FILES of the files' names, sizes and times: a cache of other
files or other settings has another name and is never opened.

A cache serves the user who made it. What another user owns or could have written is not read; where NAME-PLACE is
another user's, this one's is NAME-PLACE-UID.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_lab.data.cache_files import CheckedWriter, UntrustedCacheError, read_about, read_array, write_about
from diffusion_lab.data.cache_place import CachePlace, Say, locked, make_own
from diffusion_lab.data.decoded import DecodedSource, Progress, decode_all, least_bytes, sides_to_keep
from diffusion_lab.data.image_folder import ImageFolderSource
from diffusion_lab.data.source import IndexArray
from diffusion_lab.data.verification import SMALL, Verification

PIXELS, CHECKS, HASHES, CORRUPT, SIDES = "pixels.bin", "checks.npy", "hashes.npy", "corrupt.npy", "sides.npy"
PARTIAL = ".partial-"


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
    if (found := _opened(source, place, say)) is not None:
        return found
    make_own(place.folder)
    with locked(place.folder, say) as alone:
        if (found := _opened(source, place, say)) is not None:
            return found
        if alone:
            _remove_outdated(place, say)
        _write(source, place, say, progress)
    return _read(source, place, source.labels, read_about(place.cache))


def _write(source: ImageFolderSource, place: CachePlace, say: Say, progress: Progress | None) -> None:
    """Decode all files into a folder that is renamed at the end. Where another process was first, its cache stays."""
    needed, free = least_bytes(source), shutil.disk_usage(place.folder).free
    least = "" if source.crop == "center" else "at least "
    say(f"{source.key}: decoding {len(source):,} images once, {least}{_size(needed)} in {place.cache}")
    if needed > free:
        raise OSError(f"{_size(needed)} are needed in {place.folder} and {_size(free)} are free")
    begun = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=place.folder))
    try:
        with (begun / PIXELS).open("wb") as stream:
            checked = CheckedWriter(stream)
            done = decode_all(source, checked, progress)
        np.save(begun / CORRUPT, np.array(sorted(done.corrupt), dtype=np.int64))
        source.drop(done.corrupt)
        np.save(begun / CHECKS, checked.checks())
        np.save(begun / HASHES, done.contents.hashes())
        if (sides := sides_to_keep(source, done.sides)) is not None:
            np.save(begun / SIDES, sides)
        about = {"images": len(source), "of": str(source.path.resolve()), "cache": place.cache.name}
        write_about(begun, {**about, "fingerprint": source.fingerprint_of(done.contents)})
        _flush(begun)
        with contextlib.suppress(FileExistsError):
            _rename(begun, place.cache)
    finally:
        shutil.rmtree(begun, ignore_errors=True)


def _opened(source: ImageFolderSource, place: CachePlace, say: Say) -> DecodedSource | None:
    """The cache, if it is there and whole, and what it says of the folder is still so."""
    try:
        about = read_about(place.cache)
        corrupt = read_array(place.cache, CORRUPT, about)
        checks = read_array(place.cache, CHECKS, about)
        verification = Verification(place.cache / PIXELS, checks, partial(_discard, place.cache))
        found = _read(source, place, np.delete(source.labels, corrupt), about, verification)
    except FileNotFoundError:
        if place.cache.exists():
            _discard(place.cache)
        return None
    except UntrustedCacheError as error:
        say(f"{error}: that cache is not used")
        _discard(place.cache)
        return None
    except (OSError, ValueError, LookupError, TypeError):
        _discard(place.cache)
        return None
    if (place.cache / PIXELS).stat().st_size > SMALL:
        verification.start()
    elif not verification.run():
        say(f"the images in {place.cache} are not those that were decoded: removed")
        return None
    return found if _still_corrupt(source, corrupt.tolist(), place) else None


def _still_corrupt(source: ImageFolderSource, corrupt: Sequence[int], place: CachePlace) -> bool:
    """Leave out the files that were corrupt when the cache was made; one that can be read by now ends the cache."""
    faults = {index: source.content_or_fault(index) for index in corrupt}
    if all(isinstance(fault, Exception) for fault in faults.values()):
        source.drop({index: fault for index, fault in faults.items() if isinstance(fault, Exception)})
        return True
    _discard(place.cache)
    return False


def _read(
    source: ImageFolderSource,
    place: CachePlace,
    labels: IndexArray,
    about: Mapping[str, Any],
    verification: Verification | None = None,
) -> DecodedSource:
    """Raises OSError, ValueError, LookupError or TypeError for a cache that someone damaged."""
    if about["cache"] != place.cache.name:
        raise ValueError(f"{place.cache} was made for other images")
    return DecodedSource(
        place.cache / PIXELS,
        read_array(place.cache, SIDES, about) if SIDES in about["sha256"] else None,
        labels,
        source.class_names,
        source.channels,
        source.image_size,
        about["fingerprint"],
        read_array(place.cache, HASHES, about),
        verification,
        source.key,
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


def _size(count: int) -> str:
    """Bytes in words."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
