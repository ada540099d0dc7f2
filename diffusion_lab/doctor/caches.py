"""Caches of this project and its libraries: where they are, how large, and how to clear them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from diffusion_lab.doctor.findings import Finding, fact, shown_path, size

SECONDS = 3.0
"""Longest time to add up the sizes of one cache."""


@dataclass(frozen=True)
class Cache:
    """A cache.

    Args:
        name: What it holds, in short.
        folder: Where it is.
        note: What happens once it is cleared.
        excluding: Names of folders directly inside that are other caches.
        size: Bytes on the disk; None: it does not exist.
        complete: Whether ``size`` counts all files, not only those added up within the time limit.
    """

    name: str
    folder: Path
    note: str
    excluding: tuple[str, ...] = ()
    size: int | None = None
    complete: bool = True


def read_caches() -> list[Cache]:
    """Find the caches, and add up their sizes."""
    return [measured(cache) for cache in known_caches()]


def known_caches() -> Iterator[Cache]:
    """Yield the caches that this user's programs write, without sizes."""
    import torch
    from wandb import env

    from diffusion_lab.data.cache_location import default_cache_dir
    from diffusion_lab.features.tensor_cache import FOLDER

    own = default_cache_dir()
    yield Cache("images", own, "folders of images are decoded again", (FOLDER, "weights"))
    yield Cache("features", own / FOLDER, "features for evaluations are computed again")
    yield Cache("weights", own / "weights", "weights of feature networks are downloaded again")
    yield Cache("torch.hub", Path(torch.hub.get_dir()), "weights of feature networks are downloaded again")
    yield Cache("W&B cache", Path(env.get_cache_dir()), "artifacts are downloaded again")
    yield Cache("W&B staging", Path(env.get_data_dir()), "artifacts that are not uploaded yet are lost")
    compiled = _compiled_code()
    if compiled is not None:
        yield Cache("compiled code", compiled, "networks are compiled again")


def _compiled_code() -> Path | None:
    try:
        from torch._inductor.runtime.cache_dir_utils import default_cache_dir
    except ImportError:  # a private module, elsewhere in other versions
        return None
    return Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR") or default_cache_dir())


def measured(cache: Cache, clock: Callable[[], float] = time.monotonic) -> Cache:
    """Return a cache with its size."""
    if not cache.folder.is_dir():
        return cache
    ends = clock() + SECONDS
    total = 0
    for bytes_on_disk in _sizes(cache.folder, set(cache.excluding)):
        total += bytes_on_disk
        if clock() > ends:
            return Cache(cache.name, cache.folder, cache.note, cache.excluding, total, complete=False)
    return Cache(cache.name, cache.folder, cache.note, cache.excluding, total)


def _sizes(folder: Path, excluding: set[str]) -> Iterator[int]:
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        if entry.name in excluding:
            continue
        try:
            state = entry.stat(follow_symlinks=False)
            is_folder = entry.is_dir(follow_symlinks=False)
        except OSError:
            continue
        if is_folder:
            yield from _sizes(Path(entry.path), set())
        else:
            yield int(state.st_blocks) * 512


def cache_findings(caches: Iterable[Cache]) -> Iterator[Finding]:
    """Yield one finding per cache that exists, and one for those that do not."""
    absent = []
    for cache in caches:
        if not cache.size:
            absent.append(cache.name)
            continue
        amount = size(cache.size) if cache.complete else f"more than {size(cache.size)}"
        text = f"{amount} in {shown_path(cache.folder)}; once cleared, {cache.note}"
        yield fact(cache.name, text, _clear(cache))
    if absent:
        yield fact("empty", ", ".join(absent))


def _clear(cache: Cache) -> str:
    folder = shown_path(cache.folder)
    if not cache.excluding:
        return f"rm -r {folder}"
    kept = " ".join(f"! -name {name}" for name in cache.excluding)
    return f"find {folder} -mindepth 1 -maxdepth 1 {kept} -exec rm -r {{}} +"
