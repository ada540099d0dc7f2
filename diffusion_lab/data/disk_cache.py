"""Disk cache of the decoded images of a folder, shared by all runs.

There is one folder per image folder, and in it one cache per decoding settings and state of its files::

    CACHE_DIR/NAME-PLACE/.lock                       held by the process that decodes
    CACHE_DIR/NAME-PLACE/SETTINGS-FILES/pixels.bin   the images, uint8, one after the other
    CACHE_DIR/NAME-PLACE/SETTINGS-FILES/about.json   description, and the hashes of the small files
    CACHE_DIR/NAME-PLACE/SETTINGS-FILES/*.npy        checksums of the pixels, hashes of the image files, corrupt files
                                                     by index; height and width if they differ

A cache is written under a temporary name and renamed when it is complete. PLACE is a hash of the path of the images,
SETTINGS of everything that affects pixels, FILES of the files' names, sizes and times: a cache of other files or other
settings has another name and is never opened.

A cache serves the user who created it. Files that another user owns or could have written are not read; if NAME-PLACE
belongs to another user, NAME-PLACE-UID is used.
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
from diffusion_lab.data.cache_location import CacheLocation, Report, lock_cache, make_private
from diffusion_lab.data.decoded import DecodedSource, Progress, decode_all, least_bytes, sides_to_keep
from diffusion_lab.data.image_folder import ImageFolderSource
from diffusion_lab.data.source import IndexArray
from diffusion_lab.data.verification import SMALL, Verification

PIXELS, CHECKS, HASHES, CORRUPT, SIDES = "pixels.bin", "checks.npy", "hashes.npy", "corrupt.npy", "sides.npy"
PARTIAL = ".partial-"


def cached_on_disk(
    source: ImageFolderSource, base: Path, report: Report = lambda line: None, progress: Progress | None = None
) -> DecodedSource:
    """Return the images of a folder from its cache, which is created first if missing.

    Of several processes one decodes and the others wait. Corrupt files are handled as in ``check``; those of an earlier
    run are tried again, so that a temporary read error has no permanent effect.

    Args:
        source: the folder; corrupt files are dropped from it.
        base: the folder of all caches.
        report: called with a line before long operations and removals.
        progress: called for each decoded file.

    Raises:
        ValueError: as in ``check``.
        OSError: the cache cannot be written.
    """
    location = CacheLocation.from_source(source, base)
    if (cached := _open_valid(source, location, report)) is not None:
        return cached
    make_private(location.folder)
    with lock_cache(location.folder, report) as locked_by_us:
        if (cached := _open_valid(source, location, report)) is not None:
            return cached
        if locked_by_us:
            _remove_outdated(location, report)
        _write(source, location, report, progress)
    return _read(source, location, source.labels, read_about(location.cache))


def _write(source: ImageFolderSource, location: CacheLocation, report: Report, progress: Progress | None) -> None:
    """Decode all files into a folder that is renamed at the end. If another process was first, its cache stays."""
    needed, free = least_bytes(source), shutil.disk_usage(location.folder).free
    least = "" if source.crop == "center" else "at least "
    report(f"{source.key}: decoding {len(source):,} images once, {least}{_format_size(needed)} in {location.cache}")
    if needed > free:
        raise OSError(f"{_format_size(needed)} are needed in {location.folder} and {_format_size(free)} are free")
    partial_folder = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=location.folder))
    try:
        with (partial_folder / PIXELS).open("wb") as stream:
            checked = CheckedWriter(stream)
            decoding = decode_all(source, checked, progress)
        np.save(partial_folder / CORRUPT, np.array(sorted(decoding.corrupt), dtype=np.int64))
        source.drop(decoding.corrupt)
        np.save(partial_folder / CHECKS, checked.checks())
        np.save(partial_folder / HASHES, decoding.contents.hashes())
        if (sides := sides_to_keep(source, decoding.sides)) is not None:
            np.save(partial_folder / SIDES, sides)
        about = {"images": len(source), "of": str(source.path.resolve()), "cache": location.cache.name}
        write_about(partial_folder, {**about, "fingerprint": source.fingerprint_of(decoding.contents)})
        _flush(partial_folder)
        with contextlib.suppress(FileExistsError):
            _rename(partial_folder, location.cache)
    finally:
        shutil.rmtree(partial_folder, ignore_errors=True)


def _open_valid(source: ImageFolderSource, location: CacheLocation, report: Report) -> DecodedSource | None:
    """Return the cache if it exists, is valid, and still matches the folder; else None."""
    try:
        about = read_about(location.cache)
        corrupt = read_array(location.cache, CORRUPT, about)
        checks = read_array(location.cache, CHECKS, about)
        verification = Verification(location.cache / PIXELS, checks, partial(_discard, location.cache))
        cached = _read(source, location, np.delete(source.labels, corrupt), about, verification)
    except FileNotFoundError:
        if location.cache.exists():
            _discard(location.cache)
        return None
    except UntrustedCacheError as error:
        report(f"{error}: that cache is not used")
        _discard(location.cache)
        return None
    except (OSError, ValueError, LookupError, TypeError):
        _discard(location.cache)
        return None
    if (location.cache / PIXELS).stat().st_size > SMALL:
        verification.start()
    elif not verification.run():
        report(f"the images in {location.cache} are not those that were decoded: removed")
        return None
    return cached if _still_corrupt(source, corrupt.tolist(), location) else None


def _still_corrupt(source: ImageFolderSource, corrupt: Sequence[int], location: CacheLocation) -> bool:
    """Skip the files that were corrupt when the cache was created; if one is readable now, the cache is discarded."""
    faults = {index: source.content_or_fault(index) for index in corrupt}
    if all(isinstance(fault, Exception) for fault in faults.values()):
        source.drop({index: fault for index, fault in faults.items() if isinstance(fault, Exception)})
        return True
    _discard(location.cache)
    return False


def _read(
    source: ImageFolderSource,
    location: CacheLocation,
    labels: IndexArray,
    about: Mapping[str, Any],
    verification: Verification | None = None,
) -> DecodedSource:
    """Read a cache. Raises OSError, ValueError, LookupError or TypeError if it is damaged."""
    if about["cache"] != location.cache.name:
        raise ValueError(f"{location.cache} was made for other images")
    return DecodedSource(
        location.cache / PIXELS,
        read_array(location.cache, SIDES, about) if SIDES in about["sha256"] else None,
        labels,
        source.class_names,
        source.channels,
        source.image_size,
        about["fingerprint"],
        read_array(location.cache, HASHES, about),
        verification,
        source.key,
    )


def _discard(cache: Path) -> None:
    """Remove an invalid cache; other processes keep what they have mapped."""
    with contextlib.suppress(OSError):
        aside = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=cache.parent))
        cache.rename(aside / "damaged")
        shutil.rmtree(aside, ignore_errors=True)


def _remove_outdated(location: CacheLocation, report: Report) -> None:
    """Remove leftovers of killed processes, and caches of earlier states of the folder.

    Caches with other settings may be needed again, so they are only reported.
    """
    for leftover in location.folder.glob(f"{PARTIAL}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    for outdated in location.folder.glob(f"{location.settings}-*"):
        report(f"the files have changed since {outdated} was made: removed")
        _discard(outdated)
    others = list(location.folder.glob(f"*/{PIXELS}"))
    if others:
        size = _format_size(sum(file.stat().st_size for file in others))
        report(f"{len(others)} cache(s) of the same images with other settings take {size} in {location.folder}")


def _flush(folder: Path) -> None:
    """Flush the files to disk, so that a renamed cache is complete even after a power failure."""
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


def _format_size(count: int) -> str:
    """Format a number of bytes."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
